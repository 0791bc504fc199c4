"""`llava-av evaluation` as a user calls it; `compare` is in tests/integration/test_evaluation_task.py."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from llava_av.cli.app import app
from llava_av.errors import UserError
from llava_av.evaluation.tasks import load_task, task_names
from tests.media_samples import RATE_HZ, click, write_audio, write_grey_clip


def said(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["evaluation", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_tasks_are_listed_with_rule_and_data() -> None:
    listed = said("tasks")
    for name in task_names():
        task = load_task(name)
        assert f"{name} (version {task.version}, rule {task.rule})\n" in listed
        assert task.files in listed


def test_a_new_task_is_checked_once_its_media_are_there(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    assert said("new", str(folder)).split() == [f"{folder}/task.yaml", f"{folder}/questions.jsonl"]
    check = ("check", f"{folder}/task.yaml", str(folder))
    with pytest.raises(UserError, match=r"line 1: missing clips/kitchen\.mp4 and 1 more files"):
        said(*check)
    (folder / "clips").mkdir()
    (folder / "audio").mkdir()
    write_grey_clip(folder / "clips" / "kitchen.mp4")
    write_audio(folder / "audio" / "street.wav", click(0.1)[None], RATE_HZ, "pcm_s16le")
    assert said(*check).splitlines() == [
        "2 questions of 2 kinds: audio_source, joint_event",
        "",
        "What falls when the bell rings?",
        "A. a cup",
        "B. a spoon",
        "Answer with the letter of the correct choice.",
        "",
        "answer: A",
    ]
    told = json.loads(said(*check, "--json"))
    assert (told["questions"], told["kinds"]) == (2, ["audio_source", "joint_event"])
    assert told["first"]["answer"] == "A"


def test_what_is_there_is_not_written_over(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="already exists: name a new folder"):
        said("new", str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_check_refuses_what_an_evaluation_would(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no task 'dayly-omni'; .*daily-omni"):
        said("check", "dayly-omni", str(tmp_path))
    with pytest.raises(UserError, match=r"qa\.json is missing"):
        said("check", "daily-omni", str(tmp_path))
