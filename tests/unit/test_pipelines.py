"""The pipeline's definition, and how a local run of it reports a failed step.

`LLAVA_AV_UPDATE_GOLDEN=1 pytest tests/unit/test_pipelines.py` writes the golden file anew.
"""

import itertools
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from llava_av.cli.app import app
from llava_av.cli.pipeline import _parameters
from llava_av.errors import UserError
from llava_av.launch import LaunchError, ProfileError, load_profile
from llava_av.workflows.runtime.job_target import (
    LOCAL_TARGET,
    JobTarget,
    pipeline_changes,
    processes_for,
    resolve_job_target,
)
from llava_av.workflows.runtime.workspace import STEPS, Workspace
from pipelines.local import run_pipeline
from pipelines.pipeline import PipelineSettings, compile_pipeline, read_parameters

GOLDEN = Path(__file__).parent / "golden" / "pipeline.yaml"
IMAGE = f"registry.example/llava-av-pipeline@sha256:{'01' * 32}"
TRAIN_IMAGE = f"registry.example/llava-av-train@sha256:{'23' * 32}"


def compiled(path: Path, **settings: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the specification, and that of its pods."""
    compile_pipeline(path, PipelineSettings(**{"image": IMAGE, "train_image": TRAIN_IMAGE} | settings))
    return loaded(path)


def loaded(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    specification, platform = yaml.safe_load_all(path.read_text())
    return specification, platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compile the pipeline with default settings once, since KFP takes a second for it."""
    path = tmp_path_factory.mktemp("compiled") / "pipeline.yaml"
    compiled(path)
    return path


@pytest.fixture(scope="module")
def pipeline(made: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    return loaded(made)


def chain(specification: dict[str, Any]) -> dict[str, Any]:
    return dict(specification["components"]["comp-exit-handler-1"]["dag"]["tasks"])


def test_compiled_pipeline_is_the_golden_one(made: Path) -> None:
    if os.environ.get("LLAVA_AV_UPDATE_GOLDEN"):
        GOLDEN.write_text(made.read_text())
    assert made.read_text() == GOLDEN.read_text()


def test_steps_run_in_order_and_cleanup_last(pipeline: tuple[dict[str, Any], dict[str, Any]]) -> None:
    tasks = chain(pipeline[0])
    assert set(tasks) == set(STEPS)
    for before, after in itertools.pairwise(STEPS):
        assert before in tasks[after]["dependentTasks"]
    cleanup = pipeline[0]["root"]["dag"]["tasks"]["cleanup"]
    assert cleanup["triggerPolicy"]["strategy"] == "ALL_UPSTREAM_TASKS_COMPLETED"


def test_every_step_uses_the_image_given_and_installs_nothing(
    pipeline: tuple[dict[str, Any], dict[str, Any]],
) -> None:
    executors = pipeline[0]["deploymentSpec"]["executors"]
    assert len(executors) == len(STEPS) + 1
    for executor in executors.values():
        container = executor["container"]
        assert container["image"] == IMAGE
        assert "pip install" not in " ".join(container["command"])
        assert container["resources"]["resourceMemoryLimit"]


def test_every_step_gets_services_credentials_and_the_id_of_its_run(
    pipeline: tuple[dict[str, Any], dict[str, Any]],
) -> None:
    executors = pipeline[1]
    assert len(executors) == len(STEPS) + 1
    for pod in executors.values():
        assert {source["configMapName"] for source in pod["configMapAsEnv"]} == {"llava-av-services"}
        assert {source["secretName"] for source in pod["secretAsEnv"]} == {"llava-av-credentials"}
        assert [field["name"] for field in pod["fieldPathAsEnv"]] == ["LLAVA_AV_PIPELINE_RUN"]
        assert pod["securityContext"]["runAsNonRoot"]


def test_an_installation_decides_about_pods(tmp_path: Path) -> None:
    chosen = {"credentials_secret": None, "ca_config_map": "company-ca", "image_pull_secret": "registry-key"}
    specification, executors = compiled(tmp_path / "p.yaml", **chosen, services_config_map="elsewhere")
    for pod in executors.values():
        assert "secretAsEnv" not in pod
        assert {source["configMapName"] for source in pod["configMapAsEnv"]} == {"elsewhere"}
        assert [volume["configMapName"] for volume in pod["configMapAsVolume"]] == ["company-ca"]
        assert [secret["secretName"] for secret in pod["imagePullSecret"]] == ["registry-key"]
    for executor in specification["deploymentSpec"]["executors"].values():
        variables = {one["name"]: one["value"] for one in executor["container"]["env"]}
        assert set(variables.values()) == {"/etc/llava-av/ca/ca.crt"}


@pytest.mark.parametrize("image", [IMAGE, "llava-av-pipeline:dev"])
def test_only_steps_of_a_pinned_image_are_reused(
    pipeline: tuple[dict[str, Any], dict[str, Any]], tmp_path: Path, image: str
) -> None:
    specification, _ = pipeline if image == IMAGE else compiled(tmp_path / "p.yaml", image=image)
    tasks = chain(specification)
    cached = {name for name, task in tasks.items() if task["cachingOptions"].get("enableCache")}
    # What a folder or a registry holds can change outside.
    assert cached == ({"train", "evaluate"} if image == IMAGE else set())


def test_a_step_is_reused_for_the_same_run_and_job_target_alone(
    pipeline: tuple[dict[str, Any], dict[str, Any]],
) -> None:
    tasks = chain(pipeline[0])
    assert set(tasks["train"]["inputs"]["parameters"]) == {"run", "job_target"}
    assert set(tasks["evaluate"]["inputs"]["parameters"]) == {"run", "job_target"}


def test_an_unknown_launcher_is_named() -> None:
    with pytest.raises(LaunchError, match=r"'moon': use local or kubernetes"):
        resolve_job_target("moon", "cpu")


def test_a_job_target_by_digest_is_the_same_in_every_pipeline_run(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "key")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://minio:9000")
    texts: dict[str, set[str]] = {TRAIN_IMAGE: set(), "train:dev": set()}
    for image, seen in texts.items():
        target = resolve_job_target("kubernetes", "cpu", {"image": image})
        for run in ("first", "second"):
            monkeypatch.setenv("LLAVA_AV_PIPELINE_RUN", run)
            seen.add(target.to_text())
            assert JobTarget.from_text(target.to_text()) == target
    assert (len(texts[TRAIN_IMAGE]), len(texts["train:dev"])) == (1, 2)
    assert JobTarget.from_text(LOCAL_TARGET.to_text()) == LOCAL_TARGET
    monkeypatch.setenv("LLAVA_AV_BUCKET", "another")
    assert resolve_job_target("kubernetes", "cpu", {"image": TRAIN_IMAGE}).to_text() not in texts[TRAIN_IMAGE]


def test_parameters_change_the_profile_and_the_processes() -> None:
    changes = pipeline_changes('{"cpu": "3", "gpus_per_node": 4}', image=TRAIN_IMAGE, gpus=8)
    assert changes == {"image": TRAIN_IMAGE, "gpus_per_node": 4, "cpu": "3"}
    assert pipeline_changes("{}", image="", gpus=0) == {}
    assert processes_for(load_profile("gpu-4x8")) == {"training.num_processes": 32}
    assert processes_for(load_profile("cpu")) == processes_for(None) == {}
    for wrong in ("[]", "cpu=3"):
        with pytest.raises(UserError, match=r"^job (is not valid JSON|must be a JSON object)"):
            pipeline_changes(wrong, image="", gpus=0)


def test_parameters_are_those_that_people_set() -> None:
    names = {"recipe", "overrides", "dataset", "dataset_name", "experiment", "launcher", "profile", "gate"}
    assert set(read_parameters(GOLDEN)) == names | {
        "gpus",
        "train_image",
        "job",
        "allow_incomplete_record",
        "commit",
    }


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["absent.yaml"], "cannot read absent.yaml: No such file or directory.*`llava-av pipeline compile"),
        ([__file__], "is not a compiled pipeline .*`llava-av pipeline compile`"),
        (
            [str(GOLDEN), "-p", "gpu=1"],
            "--param gpu: unknown; the pipeline has allow_incomplete_record, commit, dataset, ",
        ),
        ([str(GOLDEN), "-p", "gpus"], "--param gpus: give NAME=VALUE, such as recipe=dryrun"),
        ([str(GOLDEN), "-p", "gpus=many"], "--param gpus=many: must be an integer"),
        ([str(GOLDEN), "-p", "gate=perhaps"], "--param gate=perhaps: must be true or false"),
        ([str(GOLDEN), "-p", "recipe=absent.yaml"], "no recipe 'absent.yaml'"),
        ([str(GOLDEN)], "Kubeflow Pipelines at http://127.0.0.1:9 .* --endpoint"),
    ],
)
def test_wrong_use_is_one_line(arguments: list[str], problem: str) -> None:
    done = CliRunner().invoke(app, ["pipeline", "run", *arguments, "--endpoint", "http://127.0.0.1:9"])
    assert isinstance(done.exception, UserError), done.output
    assert re.search(problem, str(done.exception))
    assert "\n" not in str(done.exception)


@pytest.mark.parametrize(
    "text", ["0003", "2024-01-01", "12:30", "on", "", "null", "a: b", '{"training.learning_rate": 1e-5}']
)
def test_texts_stay_as_they_are(text: str) -> None:
    assert _parameters(GOLDEN, [f"experiment={text}", "gate=false", "gpus=2"]) == {
        "experiment": text,
        "gate": False,
        "gpus": 2,
    }


def test_files_of_this_machine_travel_as_their_content(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("cpu: 3\n")
    (tmp_path / "tiny.yaml").write_text("base: quick\noverrides: {seed: 5}\n")
    given = _parameters(GOLDEN, [f"profile={tmp_path / 'mine.yaml'}", f"recipe={tmp_path / 'tiny.yaml'}"])
    # The image is for train_image to say.
    target = resolve_job_target("kubernetes", given["profile"], {"image": TRAIN_IMAGE})
    assert target.profile is not None
    assert target.profile.cpu == "3"
    assert json.loads(given["recipe"])["seed"] == 5


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("cpu: [", "not valid YAML"),
        ("", "must be a mapping of fields"),
        ("[cpu, 3]", "must be a mapping of fields"),
        ("environment: {SINCE: 2024-01-01}", "neither text nor a number, .*quote it"),
    ],
)
def test_a_file_that_is_no_profile_is_one_line(tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ProfileError, match=problem) as caught:
        _parameters(GOLDEN, [f"profile={tmp_path / 'mine.yaml'}"])
    assert "\n" not in str(caught.value)


def test_compile_writes_yaml_alone(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["pipeline", "compile", str(tmp_path / "p.txt"), "--image", IMAGE])
    assert isinstance(done.exception, UserError)
    assert "must end in .yaml" in str(done.exception)


def test_compile_says_what_an_image_without_digest_costs(tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    done = CliRunner().invoke(app, ["pipeline", "compile", str(file), "--image", "llava-av-pipeline:dev"])
    assert done.exit_code == 0
    assert "llava-av-pipeline:dev has no digest" in done.stderr
    assert read_parameters(file)["gpus"] == "NUMBER_INTEGER"


@pytest.mark.parametrize("folder", ["plain", "with a space", "python3-projects"])
def test_failed_step_leaves_one_line(
    tmp_path: Path, folder: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace = Workspace(folder=tmp_path / folder)
    monkeypatch.setenv("LLAVA_AV_OUTPUT_DIR", str(workspace.folder))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.delenv("LLAVA_AV_LIFELINE", raising=False)
    recipe = str(tmp_path / "python3-recipes" / "absent.yaml")
    parameters = {"recipe": recipe, "experiment": "dryrun", "launcher": "local"}
    assert not run_pipeline(workspace, parameters)
    line = workspace.error_file.read_text()
    assert line.startswith(f"no recipe {recipe!r}")
    assert line.count("\n") == 1
    assert json.dumps(recipe) in capsys.readouterr().out
