"""Opening of runs, and what their steps leave, on a real object store."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from llava_av.checkpoints import CheckpointError, CheckpointState, state_digest, write_checkpoint
from llava_av.datasets.commits import CommitError, find_commit, find_commits
from llava_av.errors import UserError
from llava_av.evaluation.runner import evaluate
from llava_av.experiments.records import ExperimentError, load_record
from llava_av.launch import LaunchError, load_profile
from llava_av.provenance.source_code import code_state
from llava_av.recipe import DataRecipe, RecipeError, load_recipe
from llava_av.runs import (
    DatasetName,
    EvaluationResult,
    Run,
    RunMissing,
    RunRequest,
    StageResults,
    TrainedCheckpoint,
    TrainingResult,
)
from llava_av.storage import ObjectStore
from llava_av.workflows.commit_data import commit_folder
from llava_av.workflows.open_run import open_run, open_run_step, read_run_record
from llava_av.workflows.register import register_step
from llava_av.workflows.runtime.failures import PIPELINE_RUN_VARIABLE
from llava_av.workflows.runtime.job_target import JobTarget
from llava_av.workflows.runtime.workspace import Workspace
from llava_av.workflows.train import stage_step, train_step
from tests.artifacts import sample

pytestmark = pytest.mark.integration


def _run(store: ObjectStore, **changed: object) -> Run:
    request = {
        "recipe": load_recipe("quick"),
        "dataset": DatasetName(name="clips", commit="c" * 64),
        "experiment": "dryrun",
        "code": code_state(),
        **changed,
    }
    return open_run(store, **request)  # type: ignore[arg-type]


def test_equal_request_finds_the_same_run(store: ObjectStore) -> None:
    first = _run(store)
    assert _run(store) == first
    assert len(first.id) == 16
    assert first.request().recipe == load_recipe("quick")
    assert read_run_record(first).id == "dryrun"
    assert first.code().digest == code_state().digest


def test_a_run_has_the_media_settings_of_its_base_model(
    store: ObjectStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"frames_per_s": 1.0, "max_audio_s": 30.0}))
    content = json.loads(load_recipe("quick").canonical_json())
    content |= {"model": {"base": str(tmp_path)}, "media": {"max_audio_s": 5.0}}
    recipe = load_recipe(json.dumps(content))
    media = _run(store, recipe=recipe).request().recipe.media
    assert (media.frames_per_s, media.max_audio_s) == (1.0, 5.0)
    [warning] = [one.getMessage() for one in caplog.records if "media." in one.getMessage()]
    assert "media.max_audio_s=5.0" in warning
    assert "30.0" in warning


def test_a_run_of_several_datasets_has_its_own_id_and_a_mix_that_fits_them(store: ObjectStore) -> None:
    others = (DatasetName(name="more", commit="d" * 64),)
    run = _run(store, further_datasets=others)
    assert run.id != _run(store).id
    assert [str(one) for one in run.request().datasets] == [f"clips@{'c' * 64}", f"more@{'d' * 64}"]
    mix = load_recipe("quick").with_overrides({"data.mix": {"other": {"max_samples": 3}}})
    with pytest.raises(RecipeError, match=r"data\.mix\.other .* clips, more"):
        _run(store, further_datasets=others, recipe=mix)


def test_more_datasets_than_session_keys_can_name_start_no_job(store: ObjectStore, tmp_path: Path) -> None:
    names = [f"a-dataset-with-a-rather-long-name-{number:03}" for number in range(60)]
    further = tuple(DatasetName(name=name, commit="d" * 64) for name in names)
    made = _run(store, further_datasets=further)
    profile = load_profile("cpu", {"session_credentials": True})
    target = JobTarget(launcher="kubernetes", profile=profile)
    with pytest.raises(LaunchError, match="61 datasets, but may have at most 2,048"):
        train_step(Workspace(folder=tmp_path), made.id, target=target)
    assert not made.names("seconds/")


def test_a_folder_has_one_job_of_a_run_at_a_time(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = _run(store)
    errors: list[str] = []

    def run_again(workspace: Workspace, run: Run, target: JobTarget, **options: object) -> None:
        with pytest.raises(UserError) as caught:
            train_step(workspace, run.id)
        errors.append(str(caught.value))
        run.write(sample(TrainingResult))

    monkeypatch.setattr("llava_av.workflows.train.run_job", run_again)
    for _ in range(2):
        # The checkpoint does not exist, so that the run is trained again.
        train_step(Workspace(folder=tmp_path), run.id)
    assert len(errors) == 2
    assert all(f"run {run.id} is being trained in {tmp_path} " in error for error in errors)


def test_the_duration_of_a_training_by_stages_is_their_sum(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = [{"name": name, "steps": 2} for name in ("align", "joint")]
    run = _run(store, recipe=load_recipe("quick").with_overrides({"stages": stages}))

    def finish(workspace: Workspace, run: Run, target: JobTarget, **options: object) -> None:
        assert options["arguments"] == ("--stage", "align")
        run.write(StageResults(stages=sample(TrainingResult).stages[:1]))

    monkeypatch.setattr("llava_av.workflows.train.run_job", finish)
    durations = []
    # The checkpoint of the stage does not exist, so that it is trained again.
    for _ in range(2):
        assert stage_step(Workspace(folder=tmp_path), run.id, "align").name == "align"
        durations.append(run.seconds(["train"])["train"])
        run.record_seconds("train", durations[-1] + 1)
    assert durations[1] >= durations[0] + 1


def test_several_committed_datasets_are_named_with_commas(store: ObjectStore, clips: Path) -> None:
    first, second = (commit_folder(store, clips, name, DataRecipe()) for name in ("one", "two"))
    assert find_commits(store, f"one, two@{second.id}") == (
        find_commit(store, "one"),
        find_commit(store, "two"),
    )
    with pytest.raises(CommitError, match="one is named twice"):
        find_commits(store, f"one,one@{first.id}")


def test_a_run_that_an_earlier_version_opened_is_found_and_left_as_it_is(store: ObjectStore) -> None:
    run = _run(store)
    recipe = json.loads(load_recipe("quick").identity_json())
    assert "samples_per_step" in recipe["training"]
    earlier = RunRequest.model_validate({**run.request().to_json(), "recipe": recipe})
    run.write(earlier)
    assert _run(store) == run
    assert run.request() == earlier
    assert run.request().recipe == load_recipe("quick")


def test_another_number_of_processes_is_the_same_run_with_a_new_request(store: ObjectStore) -> None:
    first = _run(store)
    changed = load_recipe("quick").with_overrides({"training.num_processes": 4, "training.zero_stage": 3})
    assert _run(store, recipe=changed) == first
    assert first.request().recipe == changed
    first.write(_trained("s3://bucket/checkpoints/x/step-00000008", "d" * 64))
    assert _run(store) == first
    assert first.request().recipe == changed, "a trained run keeps the request that it was trained with"


@pytest.mark.parametrize(
    "changed",
    [
        {"recipe": load_recipe("quick").with_overrides({"seed": 5})},
        {"dataset": DatasetName(name="clips", commit="d" * 64)},
        {"dataset": DatasetName(name="other", commit="c" * 64)},
    ],
)
def test_any_change_is_another_run(store: ObjectStore, changed: dict) -> None:
    assert _run(store, **changed).id != _run(store).id


def test_changed_expectations_are_another_run(store: ObjectStore, tmp_path: Path) -> None:
    record, _ = load_record("dryrun")
    changed = tmp_path / "dryrun.md"
    changed.write_text(record.read_text().replace("at_least: 0.9}", "at_least: 0.1}"))
    assert _run(store, experiment=str(changed)).id != _run(store).id
    shutil.copyfile(record, changed)
    assert _run(store, experiment=str(changed)).id == _run(store).id


def test_unknown_experiment_opens_nothing(store: ObjectStore) -> None:
    with pytest.raises(ExperimentError, match="no experiment record 'absent'"):
        _run(store, experiment="absent")
    assert list(store.list("runs/")) == []


def test_what_no_step_has_left_names_the_command_that_makes_it(store: ObjectStore) -> None:
    with pytest.raises(RunMissing, match=r"run 0123 has no train\.json .* `llava-av train"):
        Run(store=store, id="0123").read(TrainingResult)


def _trained(uri: str = "s3://b/c", digest: str = "d", seconds: float = 1.0) -> TrainingResult:
    return TrainingResult(
        run="0123",
        checkpoint=TrainedCheckpoint(uri=uri, digest=digest, step=3),
        steps=3,
        resumed_from=None,
        engine="torch",
        processes=1,
        seconds=seconds,
    )


def test_seconds_are_kept_of_what_ended_well(store: ObjectStore) -> None:
    run = Run(store=store, id="0123")
    with run.timed("train"):
        pass
    with pytest.raises(ZeroDivisionError), run.timed("evaluate"):
        raise ZeroDivisionError
    assert set(run.seconds(("train", "evaluate"))) == {"train"}


def test_jobs_own_seconds_stand_in_for_those_that_a_kill_prevented(store: ObjectStore) -> None:
    run = Run(store=store, id="0123")
    run.write(_trained(seconds=12.5))
    about = {"dataset": {"name": "d", "commit": "c"}, "checkpoint": {"uri": "u", "digest": "d"}}
    run.write(EvaluationResult.model_validate({**about, "accuracy": {}, "seconds": 3.25}))
    run.record_seconds("evaluate", 4.0)
    assert run.seconds(("data", "train", "evaluate")) == {"train": 12.5, "evaluate": 4.0}


def test_evaluation_refuses_another_checkpoint_than_the_run_ended_with(
    store: ObjectStore, clips: Path, tmp_path: Path
) -> None:
    committed = commit_folder(store, clips, "clips", DataRecipe())
    run = _run(store, dataset=DatasetName(name="clips", commit=committed.id))
    files = {"model/config.json": tmp_path / "config.json"}
    files["model/config.json"].write_text("{}")
    state = CheckpointState(digest=state_digest({"step": 3}), data_position={"step": 3})
    ref = write_checkpoint(store, run.id, 3, files, state, extra={})
    run.write(_trained(ref.uri, "another"))
    with pytest.raises(CheckpointError, match=rf"{ref.uri}: its manifest has digest [0-9a-f]{{64}}.*another"):
        evaluate(run.id, tmp_path / "work")


def test_weights_that_are_not_finite_are_not_registered(
    store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PIPELINE_RUN_VARIABLE, "one")  # waits for no MLflow, which is not needed to refuse
    run = _run(store)
    weights = tmp_path / "model.safetensors"
    save_file({"head.weight": np.array([[1.0, 2.0], [np.nan, 3.0]], np.float32)}, weights)
    state = CheckpointState(digest=state_digest({"step": 3}), data_position={"step": 3})
    ref = write_checkpoint(store, run.id, 3, {"model/model.safetensors": weights}, state, extra={})
    run.write(_trained(ref.uri, ref.digest))
    store.put_bytes(run.path("metrics.jsonl"), b"")
    with pytest.raises(CheckpointError, match=rf"{ref.uri}: weight head\.weight in model/.* has NaN"):
        register_step(Workspace(folder=tmp_path / "out"), run.id)


def test_data_step_commits_a_folder_once(store: ObjectStore, clips: Path, tmp_path: Path) -> None:
    workspace = Workspace(folder=tmp_path / "out")
    recipe = load_recipe("quick").canonical_json()
    first = open_run_step(workspace, recipe=recipe, dataset=str(clips), experiment="dryrun")
    assert first.dataset_name == "my-clips"
    again = open_run_step(workspace, recipe=recipe, dataset=str(clips), experiment="dryrun")
    assert again == first
    by_commit = f"{first.dataset_name}@{first.dataset_commit}"
    assert open_run_step(workspace, recipe=recipe, dataset=by_commit, experiment="dryrun") == first
    other = open_run_step(
        workspace, recipe=recipe, overrides='{"seed": 3}', dataset=str(clips), experiment="dryrun"
    )
    for_gpus = open_run_step(
        workspace,
        recipe=recipe,
        overrides='{"training.processes": 1, "training.samples_per_step": 64}',
        dataset=by_commit,
        experiment="dryrun",
        target=JobTarget(launcher="kubernetes", profile=load_profile("gpu-4x8")),
    )
    training = Run(store=store, id=for_gpus.run).request().recipe.training
    assert (training.num_processes, training.global_batch_size) == (32, 64)
    assert other.run != first.run
    assert other.dataset_commit == first.dataset_commit
