"""TensorBoard and Weights & Biases show the journal of a training."""

import importlib
import json
import os
import struct
from pathlib import Path
from typing import Any

import pytest

from llava_av.errors import UserError
from llava_av.runs import RunRequest
from llava_av.tracking.follower import JournalFollower
from llava_av.tracking.journal import Journal
from llava_av.tracking.trackers import TRACKERS_VARIABLE, chosen_trackers
from tests.artifacts import sample

REQUEST = sample(RunRequest)


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "metrics.jsonl")


def follow(journal: Journal, name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str | None:
    monkeypatch.setenv(TRACKERS_VARIABLE, name)
    (tracker,) = chosen_trackers(REQUEST, folder)
    return JournalFollower(tracker, journal).finish()


def append(journal: Journal, steps: range, loss: float) -> None:
    for step in steps:
        journal.append({"step": step, "loss": loss + step, "learning_rate": 0.5})


@pytest.mark.slow
def test_tensorboard_has_the_steps_of_the_last_job(
    journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    append(journal, range(6), loss=1.0)
    follow(journal, "tensorboard", tmp_path, monkeypatch)
    # A resumed job trains steps 4 and 5 again.
    journal.keep_until(4)
    append(journal, range(4, 8), loss=2.0)
    folder = follow(journal, "tensorboard", tmp_path, monkeypatch)
    assert folder == str(tmp_path / "tensorboard" / REQUEST.run)
    read = EventAccumulator(folder)
    read.Reload()
    expected = [(step, 1.0 + step) for step in range(4)] + [(step, 2.0 + step) for step in range(4, 8)]
    assert [(one.step, one.value) for one in read.Scalars("train/loss")] == expected
    (described,) = read.Tags()["tensors"]
    assert described.startswith(f"{REQUEST.recipe_name} · seed {REQUEST.seed} · ")
    assert REQUEST.dataset.commit.encode() in read.Tensors(described)[-1].tensor_proto.string_val[0]


def wandb_records(file: Path) -> list[Any]:
    """Read a file of up to one block in the format of LevelDB's log, with a header of 7 bytes."""
    messages: Any = importlib.import_module("wandb.proto.wandb_internal_pb2")

    content = file.read_bytes()[7:]
    assert len(content) < 32 * 1024
    records = []
    while content:
        _, length, kind = struct.unpack("<IHB", content[:7])
        assert kind == 1, "each record is whole"
        records.append(messages.Record.FromString(content[7 : 7 + length]))
        content = content[7 + length :]
    return records


@pytest.mark.slow
def test_wandb_records_a_run_offline(
    journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    append(journal, range(3), loss=1.0)
    assert follow(journal, "wandb", tmp_path, monkeypatch) == REQUEST.run
    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    records = wandb_records(file)
    (run,) = [one.run for one in records if one.WhichOneof("record_type") == "run"]
    assert (run.run_id, run.project) == (REQUEST.run, REQUEST.experiment.id)
    rows = [one.history for one in records if one.WhichOneof("record_type") == "history"]
    losses = [
        json.loads(item.value_json)
        for row in rows
        for item in row.item
        if "train/loss" in (item.key, *item.nested_key)
    ]
    assert losses == [1.0, 2.0, 3.0]
    assert [row.step.num for row in rows] == [0, 1, 2]


@pytest.mark.parametrize("value", ["", " , "])
def test_no_tracker_is_the_default(value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TRACKERS_VARIABLE, value)
    assert chosen_trackers(REQUEST, tmp_path) == []


def test_an_unknown_or_missing_tracker_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TRACKERS_VARIABLE, "tensorboard,comet")
    with pytest.raises(UserError, match="'comet' must be one of tensorboard, wandb"):
        chosen_trackers(REQUEST, tmp_path)
    monkeypatch.setenv(TRACKERS_VARIABLE, "wandb")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"wandb, which is not installed: pip install 'llava-av\[trackers\]'"):
        chosen_trackers(REQUEST, tmp_path)
    assert not os.listdir(tmp_path)
