"""GitHub workflows: pinned actions, minimal permissions, and only commands that run anywhere."""

import re
import stat
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.specifiers import SpecifierSet

from tests.commands import ROOT

FOLDER = ROOT / ".github" / "workflows"
WORKFLOWS = {path.stem: yaml.safe_load(path.read_text()) for path in sorted(FOLDER.glob("*.yml"))}
DIGEST = "sha256:" + "a" * 64
# Writing is for what leaves the workflow: an image, a package, a signature, a comment.
WRITES = {
    ("image", "packages"),
    ("image", "id-token"),
    ("publish", "id-token"),
    ("run_training", "contents"),
}


def steps() -> Iterator[tuple[str, dict[str, Any]]]:
    for name, workflow in WORKFLOWS.items():
        for job in workflow["jobs"].values():
            for step in job["steps"]:
                yield name, step


def test_the_five_are_there() -> None:
    assert set(WORKFLOWS) == {"ci", "image", "nightly", "publish", "run_training"}


def test_every_action_is_pinned_by_commit() -> None:
    used = [step["uses"] for _, step in steps() if "uses" in step]
    assert used
    for action in used:
        assert re.fullmatch(r"[\w-]+/[\w/.-]+@[0-9a-f]{40}", action), action


def test_rights_are_the_least() -> None:
    written = set()
    for name, workflow in WORKFLOWS.items():
        assert all(right == "read" for right in workflow["permissions"].values())
        for job in workflow["jobs"].values():
            rights = job.get("permissions", {})
            written |= {(name, what) for what, right in rights.items() if right == "write"}
    assert written == WRITES


def test_no_text_of_others_becomes_a_command() -> None:
    for _, step in steps():
        assert "${{" not in step.get("run", ""), step


@pytest.mark.parametrize(("workflow", "job"), [("run_training", "comment"), ("publish", "publish")])
def test_the_job_that_may_write_runs_nothing_of_the_repository(workflow: str, job: str) -> None:
    steps_of_job = WORKFLOWS[workflow]["jobs"][job]["steps"]
    assert not any("checkout" in step.get("uses", "") for step in steps_of_job)


def test_nights_run_everything_on_each_python() -> None:
    job = WORKFLOWS["nightly"]["jobs"]["everything"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    versions = job["strategy"]["matrix"]["python"]
    assert [version in SpecifierSet(project["requires-python"]) for version in versions] == [True] * 3
    commands = [step["run"] for step in job["steps"] if "run" in step]
    assert commands == ["make dryrun", "make test", "make test-slow"]


@pytest.mark.parametrize("command", [".ci/image", ".ci/train", ".ci/run", ".ci/wheel", ".ci/workflows"])
def test_commands_are_there_and_parse(command: str) -> None:
    assert (ROOT / command).stat().st_mode & stat.S_IXUSR or command == ".ci/run"
    subprocess.run(["bash", "-n", str(ROOT / command)], check=True)


def called(folder: Path) -> list[str]:
    log = folder / "calls"
    return log.read_text().splitlines() if log.exists() else []


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Create a checkout whose tools record their calls, and fail if a file `fail-<tool>` exists."""
    root = tmp_path / "checkout"
    (root / ".ci").mkdir(parents=True)
    for name in ("image", "train"):
        copy = root / ".ci" / name
        copy.write_text((ROOT / ".ci" / name).read_text())
        copy.chmod(0o755)
    tools = tmp_path / "tools"
    tools.mkdir()
    note = f'#!/bin/sh\nself=$(basename "$0")\necho "$self $*" >>{tmp_path}/calls\n'
    # What a record says of its recipe and dataset, and what its runs saw.
    note += 'case "$*" in *"--part "*) echo "the record\'s ${*##*--part }";; esac\n'
    note += f"[ ! -e {tmp_path}/fail-$self ]\n"
    for tool in ("docker", "syft", "grype", "cosign", "llava-av"):
        (tools / tool).write_text(note)
        (tools / tool).chmod(0o755)
    (root / "images").mkdir()
    build = root / "images" / "build"
    lines = (
        f'echo "build $* ${{PUSH:-}}" >>{tmp_path}/calls',
        'for name; do echo "built r/llava-av-$name:t"; done',
        f'[ -z "${{PUSH:-}}" ] || for name; do echo "r/llava-av-$name@{DIGEST}"; done',
    )
    build.write_text("#!/bin/sh\n" + "\n".join(lines) + "\n")
    build.chmod(0o755)
    for command in (
        ("init", "-q"),
        ("add", "."),
        ("-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "t"),
    ):
        subprocess.run(["git", *command], cwd=root, check=True)
    return root


def run(checkout: Path, *command: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    tools = checkout.parent / "tools"
    variables = {"PATH": f"{tools}:/usr/bin:/bin", "HOME": str(checkout.parent), **environment}
    return subprocess.run(command, cwd=checkout, env=variables, capture_output=True, text=True)


def test_images_are_scanned_before_they_are_pushed_and_signed_by_digest(checkout: Path) -> None:
    output = checkout.parent / "out"
    done = run(checkout, ".ci/image", PUSH="yes", OUTPUT=str(output), PYTHON_IMAGE=f"r/python@{DIGEST}")
    assert done.returncode == 0, done.stderr
    calls = [call for call in called(checkout.parent) if call != "docker info"]
    assert [call.split()[0] for call in calls] == [
        "build", "syft", "grype", "syft", "grype", "syft", "grype", "build", *["cosign"] * 6,
    ]  # fmt: skip
    assert calls[0] == "build train pipeline mlflow "
    # What was scanned, and no second build of it.
    assert calls[7] == "build train pipeline mlflow only"
    assert f"cosign sign --yes r/llava-av-train@{DIGEST}" in calls
    assert (output / "digests.txt").read_text().count(DIGEST) == 3
    values = yaml.safe_load((output / "digests.yaml").read_text())["images"]
    assert values["train"] == {"repository": "r/llava-av-train", "digest": DIGEST}
    assert set(values) == {"train", "pipeline", "mlflow"}


def test_a_base_image_that_is_named_by_a_tag_is_not_released(checkout: Path) -> None:
    for base in ("r/python:3.11", "r/python:3.11@sha256:abc"):
        done = run(checkout, ".ci/image", PUSH="yes", PYTHON_IMAGE=base)
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1
        assert f"the base image {base} has no digest: run images/pin" in done.stderr
    assert called(checkout.parent) == []


def test_a_vulnerable_image_is_not_pushed(checkout: Path) -> None:
    (checkout.parent / "fail-grype").touch()
    output = str(checkout.parent / "out")
    done = run(checkout, ".ci/image", PUSH="yes", OUTPUT=output, PYTHON_IMAGE=f"r/python@{DIGEST}")
    assert done.returncode != 0
    assert not any(call.startswith("cosign") or call.endswith("only") for call in called(checkout.parent))


def train(
    checkout: Path, *, arguments: tuple[str, ...] = (), **changed: str
) -> "subprocess.CompletedProcess[str]":
    variables = {
        "KFP_ENDPOINT": "http://kubeflow",
        "LLAVA_AV_PIPELINE_IMAGE": f"r/p@{DIGEST}",
        "LLAVA_AV_TRAIN_IMAGE": f"r/t@{DIGEST}",
        "LLAVA_AV": "llava-av",
        "OUTCOME": str(checkout.parent / "outcome.md"),
    }
    return run(checkout, ".ci/train", "my-idea", *arguments, **{**variables, **changed})


def test_training_checks_the_record_then_submits_with_commit_and_digests(checkout: Path) -> None:
    done = train(checkout)
    assert done.returncode == 0, done.stderr
    check, *asked, compiled, submitted = called(checkout.parent)
    commit = subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=checkout, text=True).strip()
    assert check == "llava-av experiment check my-idea"
    assert compiled.startswith("llava-av pipeline compile ")
    assert asked == [f"llava-av experiment show my-idea --part {part}" for part in ("recipe", "dataset")]
    assert f"--name my-idea at {commit[:12]} --param experiment=my-idea --param commit={commit}" in submitted
    assert "--param recipe=the record's recipe --param dataset=the record's dataset" in submitted
    assert submitted.endswith("--param profile=cpu --param job={}")
    outcome = (checkout.parent / "outcome.md").read_text()
    assert "Experiment `my-idea` succeeded" in outcome
    assert commit in outcome
    assert DIGEST in outcome


def test_the_outcome_has_what_the_run_saw_where_runs_can_be_read(checkout: Path) -> None:
    assert train(checkout, AWS_ENDPOINT_URL_S3="http://s3").returncode == 0
    pulled, shown = called(checkout.parent)[-2:]
    assert pulled.startswith("llava-av experiment pull my-idea --output-dir ")
    assert shown.startswith("llava-av experiment show my-idea --part seen --output-dir ")
    assert "the record's seen" in (checkout.parent / "outcome.md").read_text()


def test_recipe_and_dataset_can_be_others(checkout: Path) -> None:
    assert train(checkout, arguments=("small", "talks@1"), JOB='{"namespace": "team-a"}').returncode == 0
    submitted = called(checkout.parent)[-1]
    assert "--param recipe=small --param dataset=talks@1 " in submitted
    assert submitted.endswith('--param job={"namespace": "team-a"}')
    assert not any("--part" in call for call in called(checkout.parent))


def test_what_cannot_be_traced_is_not_trained(checkout: Path) -> None:
    done = train(checkout, LLAVA_AV_TRAIN_IMAGE="r/t:latest")
    assert "train: the image r/t:latest has no digest; use NAME@sha256:…" in done.stderr
    done = train(checkout, KFP_ENDPOINT="")
    assert "train: KFP_ENDPOINT is not set" in done.stderr
    (checkout / "new.py").touch()
    assert "uncommitted changes" in train(checkout).stderr
    assert called(checkout.parent) == []


def test_a_failure_is_an_outcome_too(checkout: Path) -> None:
    (checkout.parent / "fail-llava-av").touch()
    assert train(checkout).returncode == 1
    assert len(called(checkout.parent)) == 1
    assert "Experiment `my-idea` failed" in (checkout.parent / "outcome.md").read_text()
