import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from llava_av.report import build_summary, write_json

CELL = {"value": 0.9, "low": 0.8, "high": 0.95, "chance": 0.25, "n": 160, "unparsed": 2}
ABLATIONS = ("av", "video_only", "audio_only", "text_only")
FAMILIES = ("visual", "audio", "joint")


def arguments(**changes: Any) -> dict[str, Any]:
    return {
        "dataset_commit": "c" * 64,
        "checkpoint": {"uri": "s3://bucket/checkpoints/run/step-00000600", "digest": "d" * 64, "step": 600},
        "model_version": {"name": "dryrun", "version": 3, "aliases": ["champion"], "lineage": {}},
        "evaluation": {"accuracy": {name: dict.fromkeys(FAMILIES, CELL) for name in ABLATIONS}, "loss": {}},
        "gate": {"passed": True, "reasons": [], "moved": ["champion"], "expected": []},
        "seconds": {"data": 31.25, "train": 128.0},
        "quarantined": [{"file": "clips/a.mp4", "reason": "truncated"}],
        **changes,
    }


def test_holds_exactly_what_tools_rely_on() -> None:
    assert build_summary(**arguments()) == {
        "dataset_commit": "c" * 64,
        "checkpoint": {"uri": "s3://bucket/checkpoints/run/step-00000600", "digest": "d" * 64},
        "model_version": {"name": "dryrun", "version": "3", "aliases": ["champion"]},
        "accuracy": {name: dict.fromkeys(FAMILIES, CELL) for name in ABLATIONS},
        "gate": {"passed": True, "reasons": []},
        "seconds": {"data": 31.25, "train": 128.0},
        "quarantined": [{"file": "clips/a.mp4", "reason": "truncated"}],
    }


def test_a_gate_that_was_not_run_and_a_missing_version_are_null() -> None:
    summary = build_summary(**arguments(gate=None, model_version=None))
    assert summary["gate"] == {"passed": None, "reasons": []}
    assert summary["model_version"] == {"name": None, "version": None, "aliases": []}


def test_kind_all_has_no_chance() -> None:
    evaluation = {"accuracy": {"av": {"all": {**CELL, "chance": None}}}}
    assert build_summary(**arguments(evaluation=evaluation))["accuracy"]["av"]["all"]["chance"] is None


@pytest.mark.parametrize(
    "changes",
    [
        {"seconds": {"train": 1.0, "total": 1.0}},
        {"seconds": {"train": float("nan")}},
        {"evaluation": {"accuracy": {"av": {"joint": {**CELL, "value": float("nan")}}}}},
        {"evaluation": {"accuracy": {"av": {"joint": {"value": 1.0}}}}},
        {"checkpoint": {"uri": "s3://bucket/key"}},
        {"quarantined": [{"file": "clips/a.mp4"}]},
    ],
)
def test_refuses_what_tools_could_not_read(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        build_summary(**arguments(**changes))


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
