import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from llava_av.files import write_json
from llava_av.report import build_summary
from llava_av.runs import (
    CheckpointName,
    EvaluationResult,
    GateDecision,
    QuarantinedFile,
    Registration,
    Summary,
)

CELL = {"value": 0.9, "low": 0.8, "high": 0.95, "chance": 0.25, "n": 160, "unparsed": 2}
ABLATIONS = ("av", "video_only", "audio_only", "text_only")
FAMILIES = ("visual", "audio", "joint")


CHECKPOINT = {"uri": "s3://bucket/checkpoints/run/step-00000600", "digest": "d" * 64}


def evaluation(accuracy: dict[str, Any]) -> EvaluationResult:
    return EvaluationResult.model_validate(
        {"accuracy": accuracy, "dataset": {"name": "d", "commit": "c" * 64}, "checkpoint": CHECKPOINT}
    )


def summary(**changes: Any) -> Summary:
    accuracy = {name: dict.fromkeys(FAMILIES, CELL) for name in ABLATIONS}
    fields: dict[str, Any] = {
        "dataset_commit": "c" * 64,
        "checkpoint": CheckpointName.model_validate({**CHECKPOINT, "step": 600}),
        "registered": Registration(name="dryrun", version="3", aliases=("champion",), lineage={}),
        "evaluation": evaluation(accuracy),
        "gate": GateDecision(passed=True, moved=("champion",)),
        "seconds": {"data": 31.25, "train": 128.0},
        "quarantined": [QuarantinedFile(file="clips/a.mp4", reason="truncated")],
    }
    return build_summary(**{**fields, **changes})


def test_holds_exactly_what_tools_rely_on() -> None:
    assert summary().to_json() == {
        "dataset_commit": "c" * 64,
        "checkpoint": CHECKPOINT,
        "model_version": {"name": "dryrun", "version": "3", "aliases": ["champion"]},
        "accuracy": {name: dict.fromkeys(FAMILIES, CELL) for name in ABLATIONS},
        "gate": {"passed": True, "reasons": []},
        "expected": [],
        "seconds": {"data": 31.25, "train": 128.0},
        "quarantined": [{"file": "clips/a.mp4", "reason": "truncated"}],
    }


def test_a_gate_that_was_not_run_and_a_missing_version_are_null() -> None:
    found = summary(gate=None, registered=None).to_json()
    assert found["gate"] == {"passed": None, "reasons": []}
    assert found["model_version"] == {"name": None, "version": None, "aliases": []}


def test_kind_all_has_no_chance() -> None:
    found = summary(evaluation=evaluation({"av": {"all": {**CELL, "chance": None}}}))
    assert found.accuracy["av"]["all"].chance is None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("seconds", {"train": 1.0, "total": 1.0}),
        ("seconds", {"train": float("nan")}),
        ("accuracy", {"av": {"joint": {**CELL, "value": float("nan")}}}),
        ("accuracy", {"av": {"joint": {**CELL, "high": 1.01}}}),
        ("accuracy", {"av": {"joint": {**CELL, "n": -1}}}),
        ("accuracy", {"av": {"joint": {"value": 1.0}}}),
        ("checkpoint", {"uri": "s3://bucket/key"}),
        ("quarantined", [{"file": "clips/a.mp4"}]),
    ],
)
def test_refuses_what_tools_could_not_read(field: str, value: Any) -> None:
    with pytest.raises(ValidationError):
        Summary.model_validate({**summary().to_json(), field: value})


def test_a_summary_of_numbers_out_of_range_is_not_built() -> None:
    with pytest.raises(ValidationError, match="between 0 and 1"):
        summary(evaluation=evaluation({"av": {"joint": {**CELL, "value": float("nan")}}}))


def test_write_json_replaces_the_file_whole(tmp_path: Path) -> None:
    path = tmp_path / "made" / "summary.json"
    write_json(path, {"a": 1})
    write_json(path, {"reason": "größer"})
    assert json.loads(path.read_text(encoding="utf-8")) == {"reason": "größer"}
    assert [file.name for file in path.parent.iterdir()] == ["summary.json"]


def test_write_json_leaves_the_old_file_when_it_cannot_write(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(path, {"a": float("nan")})
    assert json.loads(path.read_text(encoding="utf-8")) == {"a": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["summary.json"]
