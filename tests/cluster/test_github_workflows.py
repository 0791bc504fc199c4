"""Tests of the workflows' commands on a real backend: images by digest, then an experiment with them.

`REGISTRY` is the registry that the cluster pulls from, `KFP_ENDPOINT` the backend. The tests use syft, grype
and cosign from the PATH; a stub replaces a missing one, so that the tests still check the order of calls and
their arguments.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from llava_av.storage import ObjectStore
from tests.cluster.conftest import Kubectl
from tests.cluster.services import Services
from tests.cluster.test_pipeline import KFP_NAMESPACE
from tests.commands import ROOT

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.kfp,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(not os.environ.get("KFP_ENDPOINT"), reason="KFP_ENDPOINT names no backend"),
    pytest.mark.skipif(not os.environ.get("REGISTRY"), reason="REGISTRY names no registry to push to"),
]

EXPERIMENT = "workflow"
SAYS = '#!/bin/sh\necho "$(basename "$0") $*" >>"$(dirname "$0")/calls"\n'


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create a clone with the record of an experiment in its newest commit."""
    root = tmp_path_factory.mktemp("clone") / "checkout"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(root)], check=True)
    program = root.parent / "llava-av"
    program.write_text(f'#!/bin/sh\ncd {root} && PYTHONPATH={root} exec {sys.executable} -m llava_av "$@"\n')
    program.chmod(0o755)
    words = ("--title", "T", "--hypothesis", "H", "--rationale", "R", "--next-steps", "N")
    expect = ("--recipe", "quick", "--dataset", "demo", "--expect", "accuracy.av.joint.n >= 1")
    subprocess.run([program, "experiment", "new", EXPERIMENT, *words, *expect], check=True)
    commit(root, "An experiment")
    return root


def commit(root: Path, message: str) -> None:
    author = ("-c", "user.name=T", "-c", "user.email=t@example.org")
    subprocess.run(["git", "add", "."], cwd=root, check=True)
    subprocess.run(["git", *author, "commit", "--quiet", "-m", message], cwd=root, check=True)


def run(checkout: Path, *command: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "LLAVA_AV": str(checkout.parent / "llava-av"), **variables}
    return subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def images(checkout: Path) -> Mapping[str, str]:
    """Build the images of the clone's commit as image.yml does, and return them by target with digests."""
    tools, output = checkout.parent / "tools", checkout.parent / "image-outputs"
    tools.mkdir()
    for tool in ("syft", "grype", "cosign"):
        if shutil.which(tool) is None:
            (tools / tool).write_text(SAYS)
            (tools / tool).chmod(0o755)
    path = f"{os.environ['PATH']}{os.pathsep}{tools}"
    done = run(checkout, ".ci/image", PUSH="yes", TAGS="yes", TAG="workflow", OUTPUT=str(output), PATH=path)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    names = (output / "digests.txt").read_text().split()
    if (tools / "cosign").exists():
        signed = [
            line.split()[-1] for line in (tools / "calls").read_text().splitlines() if "sign --yes" in line
        ]
        assert signed == names
    if not (tools / "syft").exists():
        assert "SPDX-2.3" in (output / "llava-av-pipeline.spdx.json").read_text()
    return dict(zip(("train", "pipeline", "mlflow"), names, strict=True))


@pytest.fixture(scope="module")
def settings(kubectl: Kubectl, services: Services, images: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """Yield the variables of run_training.yml."""
    name = services.namespace
    services.offer(name, "llava-av", to=KFP_NAMESPACE)
    services.offer_credentials(name, to=KFP_NAMESPACE)
    yield {
        **services.environment(),
        "LLAVA_AV_PIPELINE_IMAGE": images["pipeline"],
        "LLAVA_AV_TRAIN_IMAGE": images["train"],
        "JOB": f'{{"namespace": "{name}", "cpu": "250m"}}',
        "COMPILE": f"--services-config-map {name} --credentials-secret {name}",
    }
    kubectl("-n", KFP_NAMESPACE, "delete", "configmap,secret", name)


def test_an_experiment_is_trained_from_its_record(checkout: Path, settings: dict[str, str]) -> None:
    outcome = checkout.parent / "outcome.md"
    done = run(checkout, ".ci/train", EXPERIMENT, OUTCOME=str(outcome), **settings)
    text = outcome.read_text()
    assert done.returncode == 0, text
    assert f"Experiment `{EXPERIMENT}` succeeded" in text
    assert "recipe `quick`, dataset `demo`" in text
    # The observed value of the expectation.
    [row] = [line for line in text.splitlines() if line.startswith("| `")]
    assert "accuracy.av.joint.n" in row


def test_images_of_another_commit_are_rejected(checkout: Path, settings: dict[str, str]) -> None:
    before = subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=checkout, text=True).strip()
    (checkout / "README.md").write_text("Another\n")
    commit(checkout, "After the images")
    outcome = checkout.parent / "refused.md"
    done = run(checkout, ".ci/train", EXPERIMENT, OUTCOME=str(outcome), **settings)
    assert done.returncode == 1
    assert f"Experiment `{EXPERIMENT}` failed" in outcome.read_text()
    store = ObjectStore.from_env(settings)
    [cause] = [
        store.get_json(info.key)["cause"] for info in store.list("pipelines/") if "/failed/" in info.key
    ]
    assert f"here runs that of {before}; use images of that commit" in cause
