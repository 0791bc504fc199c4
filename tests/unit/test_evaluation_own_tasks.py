"""Tasks and questions of a user's own."""

import json
from pathlib import Path
from typing import Any

import pytest

from llava_av.evaluation.tasks import TaskError, load_task
from tests.benchmark_samples import OWN, own_questions


def test_questions_of_ones_own(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.wav", "c.wav", "d.png"):
        (tmp_path / name).write_bytes(b"read when it is decoded")
    media = {"video": "a.mp4", "audio": ["b.wav", "c.wav"], "image": ["d.png"]}
    bare = {"id": 2, "question": "{choices}?", "answer": "no", "choices": ["yes", "no"]}
    first, second = own_questions(tmp_path, f"{json.dumps({**OWN, **media})}\n{json.dumps(bare)}\n")
    assert first.conversations[0].value == "What rings?\nA. a bell\nB. a phone"
    assert (first.conversations[1].value, first.kind) == ("B", "audio_source")
    assert (first.video, first.audio, first.image) == (("a.mp4",), ("b.wav", "c.wav"), ("d.png",))
    assert (second.id, second.kind, second.media) == ("2", "all", ())
    assert second.conversations[0].value == "{choices}?\nA. yes\nB. no"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"family": "smell"}, "line 1: family 'smell' .*all, visual, audio, joint"),
        ({"answer": "a horn"}, "line 1: answer 'a horn' .*choices"),
        ({"choices": ["a phone"]}, "line 1 has 1 choices, .*letter needs 2 to 26"),
        ({"question": None}, "line 1 has no column question.* id, "),
        ({"choices": "a bell"}, "line 1: choices 'a bell' .*list"),
        ({"audio": [1, {}]}, "line 1: audio .*list of texts"),
        ({"video": "gone.mp4"}, "line 1: missing gone.mp4 in "),
    ],
)
def test_a_question_of_ones_own_that_is_none_is_refused(
    tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    with pytest.raises(TaskError, match=f"questions.jsonl {said}") as refused:
        own_questions(tmp_path, json.dumps({**OWN, **change}))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("prompt: Say.", "prompt must contain {question}"),
        ("rule: letter", "prompt must contain {choices}"),
        ("rule: guess", "rule: Input should be"),
        ("reader: mine", "reader: Input should be"),
        ("name: held-out", "name held-out is reserved"),
    ],
)
def test_a_task_of_ones_own_is_checked(tmp_path: Path, change: str, said: str) -> None:
    lines = {
        "name": "name: mine", "version": "version: 1", "about": "about: mine", "reader": "reader: questions",
        "files": "files: questions.jsonl", "rule": "rule: open", "prompt": "prompt: '{question}'",
    }  # fmt: skip
    path = tmp_path / "task.yaml"
    path.write_text("\n".join(lines.values()))
    assert load_task(str(path)).rule == "open"
    path.write_text("\n".join({**lines, change.partition(":")[0]: change}.values()))
    with pytest.raises(TaskError, match=said):
        load_task(str(path))
