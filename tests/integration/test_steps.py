"""Runs and the data step on a real object store."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from llava_av.datasets.folder import DatasetError
from llava_av.experiments.records import ExperimentError
from llava_av.recipe import DataRecipe, load_recipe
from llava_av.registry.source_code import code_state
from llava_av.steps.context import Workspace
from llava_av.steps.data import commit_folder, open_run_step
from llava_av.steps.runs import Run, RunMissing, open_run
from llava_av.storage import ObjectStore
from tests.media_samples import click, write_grey_clip

pytestmark = pytest.mark.integration


@pytest.fixture
def store(store_environment: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    for name, value in store_environment.items():
        monkeypatch.setenv(name, value)
    made = ObjectStore.from_env()
    made.ensure_bucket()
    return made


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    folder = tmp_path / "My Clips"
    folder.mkdir()
    write_grey_clip(folder / "a.mp4", click(0.5))
    lines = [
        {
            "id": f"sample-{index}",
            "video": "a.mp4",
            "conversations": [
                {"from": "human", "value": f"<video>\nWhat {index}?"},
                {"from": "gpt", "value": "grey"},
            ],
        }
        for index in range(4)
    ]
    (folder / "conversations.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def _run(store: ObjectStore, **changed: object) -> Run:
    request = {
        "recipe": load_recipe("quick"),
        "dataset": {"name": "clips", "commit": "c" * 64},
        "experiment": "dryrun",
        "code": code_state(),
        **changed,
    }
    return open_run(store, **request)  # type: ignore[arg-type]


def test_equal_request_finds_the_same_run(store: ObjectStore) -> None:
    first = _run(store)
    assert _run(store) == first
    assert len(first.key) == 16
    assert first.recipe() == load_recipe("quick")
    assert first.record().id == "dryrun"
    assert first.code().digest == code_state().digest


@pytest.mark.parametrize(
    "changed",
    [
        {"recipe": load_recipe("quick").with_overrides({"seed": 5})},
        {"dataset": {"name": "clips", "commit": "d" * 64}},
        {"dataset": {"name": "other", "commit": "c" * 64}},
    ],
)
def test_any_change_is_another_run(store: ObjectStore, changed: dict) -> None:
    assert _run(store, **changed).key != _run(store).key


def test_unknown_experiment_opens_nothing(store: ObjectStore) -> None:
    with pytest.raises(ExperimentError, match="no experiment record 'absent'"):
        _run(store, experiment="absent")
    assert list(store.list("runs/")) == []


def test_what_no_step_has_left_names_the_command_that_makes_it(store: ObjectStore) -> None:
    with pytest.raises(RunMissing, match=r"run 0123 has no train\.json .* do `llava-av train"):
        Run(store=store, key="0123").read("train.json", made_by="train RECIPE")


def test_seconds_are_kept_of_what_ended_well(store: ObjectStore) -> None:
    run = Run(store=store, key="0123")
    with run.timed("train"):
        pass
    with pytest.raises(ZeroDivisionError), run.timed("evaluate"):
        raise ZeroDivisionError
    assert set(run.seconds(("train", "evaluate"))) == {"train"}


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
    assert other.run != first.run
    assert other.dataset_commit == first.dataset_commit


@pytest.mark.parametrize(("allowed", "refused"), [(0.2, False), (0.19, True)])
def test_share_of_bad_samples_decides(store: ObjectStore, clips: Path, allowed: float, refused: bool) -> None:
    with (clips / "conversations.jsonl").open("a") as file:
        file.write("{not json\n")
    data = DataRecipe(max_bad_share=allowed, held_out_share=0.5)
    if refused:
        with pytest.raises(DatasetError, match=r"1 of 5 samples .* \(20%\).*conversations.jsonl:5"):
            commit_folder(store, clips, "", data)
        assert list(store.list("blobs/")) == []
    else:
        commit = commit_folder(store, clips, "", data)
        assert [bad.file for bad in commit.manifest.quarantined] == ["conversations.jsonl:5"]
