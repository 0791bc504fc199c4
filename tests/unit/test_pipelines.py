"""The pipeline's definition, and how a local run of it reports a failed step."""

import itertools
import json
from pathlib import Path

import pytest
import yaml

from llava_av.steps.context import STEPS, Workspace
from pipelines.local import run_pipeline
from pipelines.pipeline import IMAGE_VARIABLE, build_pipeline, compile_pipeline


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    path = tmp_path_factory.mktemp("compiled") / "pipeline.yaml"
    compile_pipeline(path, "registry.example/llava-av@sha256:0123")
    specification = next(yaml.safe_load_all(path.read_text()))
    assert isinstance(specification, dict)
    return specification


def test_steps_run_in_order(compiled: dict) -> None:
    tasks = compiled["root"]["dag"]["tasks"]
    assert set(tasks) == set(STEPS)
    for before, after in itertools.pairwise(STEPS):
        assert before in tasks[after]["dependentTasks"]


def test_every_step_uses_the_image_given_and_installs_nothing(compiled: dict) -> None:
    for executor in compiled["deploymentSpec"]["executors"].values():
        container = executor["container"]
        assert container["image"] == "registry.example/llava-av@sha256:0123"
        assert "pip install" not in " ".join(container["command"])


def test_what_can_change_outside_is_never_cached(compiled: dict) -> None:
    tasks = compiled["root"]["dag"]["tasks"]
    cached = {name for name, task in tasks.items() if task["cachingOptions"].get("enableCache")}
    assert cached == {"train", "register", "evaluate"}


def test_parameters_are_those_that_people_set(compiled: dict) -> None:
    parameters = compiled["root"]["inputDefinitions"]["parameters"]
    names = {"recipe", "overrides", "dataset", "dataset_name", "experiment", "launcher", "profile", "gate"}
    assert set(parameters) == names
    assert not parameters["recipe"].get("isOptional")


def test_image_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(IMAGE_VARIABLE, "other/image:1")
    executors = build_pipeline().pipeline_spec.deployment_spec["executors"]
    assert {executor["container"]["image"] for executor in dict(executors).values()} == {"other/image:1"}


@pytest.mark.parametrize("folder", ["plain", "with a space", "python3-projects"])
def test_failed_step_leaves_one_line(
    tmp_path: Path, folder: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace = Workspace(folder=tmp_path / folder)
    monkeypatch.setenv("LLAVA_AV_OUTPUT_DIR", str(workspace.folder))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.delenv("LLAVA_AV_LIFELINE", raising=False)
    recipe = str(tmp_path / "python3-recipes" / "absent.yaml")
    assert not run_pipeline(workspace, {"recipe": recipe, "experiment": "dryrun"})
    line = workspace.error_file.read_text()
    assert line.startswith(f"no recipe {recipe!r}")
    assert line.count("\n") == 1
    assert json.dumps(recipe) in capsys.readouterr().out
