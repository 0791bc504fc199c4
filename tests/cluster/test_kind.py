"""Tests of kind-up, kind-dryrun and kind-down on the cluster of KUBECONFIG, in a separate namespace."""

import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cluster.conftest import Kubectl
from tests.commands import ROOT

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1500)]

Script = Callable[..., subprocess.CompletedProcess[str]]
IMAGES = ("LLAVA_AV_TRAIN_IMAGE", "LLAVA_AV_PIPELINE_IMAGE", "LLAVA_AV_MLFLOW_IMAGE")


@pytest.fixture
def namespace(kubectl: Kubectl) -> Iterator[str]:
    name = f"llava-av-test-{uuid.uuid4().hex[:8]}"
    yield name
    kubectl("delete", "namespace", name, "--ignore-not-found", "--wait=false")


@pytest.fixture
def script(namespace: str, tmp_path: Path) -> Script:
    """Return a function that runs a script of k8s/kind."""
    environment = {
        **os.environ,
        "NAMESPACE": namespace,
        "LLAVA_AV": str(Path(sys.executable).with_name("llava-av")),
        "PYTHONPATH": str(ROOT),
        "OUTPUT_DIR": str(tmp_path / "out"),
    }

    def run(name: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(ROOT / "k8s" / "kind" / name), *arguments],
            env={**environment, **variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=1200,
        )

    return run


@pytest.mark.skipif(not all(map(os.environ.get, IMAGES)), reason=f"{' or '.join(IMAGES)} names no image")
def test_quick_dry_run_and_nothing_left_behind(
    script: Script, kubectl: Kubectl, namespace: str, tmp_path: Path
) -> None:
    for _ in range(2):  # safe to repeat
        made = script("up")
        assert made.returncode == 0, made.stdout
    done = script("dryrun", QUICK="1")
    assert done.returncode == 0, done.stdout
    assert done.stdout.rstrip().endswith(f"report: {tmp_path}/out/report.html")
    assert (tmp_path / "out" / "report.html").stat().st_size > 100_000
    listed = script("with", "sh", "-c", '"$LLAVA_AV" data show demo-2x1-seed0')
    assert listed.returncode == 0, listed.stdout
    removed = script("down")
    assert removed.returncode == 0, removed.stdout
    assert not kubectl("get", "namespace", namespace, "--ignore-not-found", "-o", "name")


def test_foreign_namespace_is_left_alone(script: Script, kubectl: Kubectl, namespace: str) -> None:
    kubectl("create", "namespace", namespace)
    for name, said in (("up", "choose another NAMESPACE"), ("down", "nothing was removed")):
        refused = script(name)
        assert refused.returncode == 1
        assert said in refused.stdout.splitlines()[-1]
    assert "Active" in kubectl("get", "namespace", namespace)


def test_dry_run_before_up_names_the_missing_step(script: Script) -> None:
    refused = script("dryrun")
    assert refused.returncode == 1
    assert "run make kind-up first" in refused.stdout
