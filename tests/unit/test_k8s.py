"""The manifests in k8s/ are what `llava-av submit` would submit."""

import os
import subprocess
import sys
from pathlib import Path

import yaml

from tests.commands import ROOT

EXAMPLES = ("dryrun", "gpu-8", "gpu-4x8")


def test_manifests_are_what_their_recipes_and_profiles_make(tmp_path: Path) -> None:
    environment = {**os.environ, "LLAVA_AV": str(Path(sys.executable).parent / "llava-av")}
    subprocess.run([str(ROOT / "k8s" / "generate"), str(tmp_path)], check=True, env=environment)
    made = {path.relative_to(tmp_path): path.read_text() for path in tmp_path.rglob("*.yaml")}
    assert set(made) == {Path(name) / "pytorchjob.yaml" for name in EXAMPLES}
    for path, text in made.items():
        assert (ROOT / "k8s" / path).read_text() == text, f"k8s/{path} is out of step; run k8s/generate"


def test_every_example_can_be_applied_by_itself() -> None:
    for name in EXAMPLES:
        folder = ROOT / "k8s" / name
        kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
        job = yaml.safe_load((folder / "pytorchjob.yaml").read_text())
        assert job["metadata"]["namespace"] == kustomization["namespace"]
        images = {one["image"].partition(":")[0] for one in _containers(job)}
        assert images == {image["name"] for image in kustomization["images"]}


def _containers(job: dict) -> list[dict]:
    pods = [replica["template"]["spec"] for replica in job["spec"]["pytorchReplicaSpecs"].values()]
    return [one for pod in pods for one in (*pod["containers"], *pod.get("initContainers", []))]
