"""From a benchmark's folder, in the format that it is published in, to samples with the task's prompt."""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from pydantic import ValidationError

from llava_av.datasets.schema import Sample
from llava_av.evaluation.tasks import formats
from llava_av.evaluation.tasks.rows import Item, Row
from llava_av.evaluation.tasks.task import Task, TaskError

__all__ = ["read_samples"]

_READERS: Mapping[str, Callable[[Path], Iterator[tuple[Row, Item]]]] = {
    "avqa": formats.avqa,
    "clotho_aqa": formats.clotho_aqa,
    "daily_omni": formats.daily_omni,
    "music_avqa": formats.music_avqa,
    "questions": formats.questions,
    "worldsense": formats.worldsense,
}
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def read_samples(task: Task, folder: Path) -> tuple[Sample, ...]:
    """Read all questions and require that their media exist.

    Args:
        task: says the format, and what is asked.
        folder: holds the task's files; media are named relative to it.

    Raises:
        TaskError: a file or a column is missing, a medium is not there, or a row is no question; names the
            row, and how many media are missing.
    """
    if not folder.is_dir():
        raise TaskError(f"task {task.name}: there is no folder {folder}; it has to hold {task.files}")
    samples: list[Sample] = []
    absent: dict[str, Row] = {}
    for row, item in _READERS[task.reader](folder):
        for medium in (*item.video, *item.audio, *item.image):
            if not (folder / medium).is_file():
                absent.setdefault(medium, row)
        samples.append(_sample(task, row, item))
    if absent:
        medium, row = next(iter(absent.items()))
        more = f", and {len(absent) - 1} more files are missing" if len(absent) > 1 else ""
        raise TaskError(
            f"{row.where} needs {medium}, which is not in {folder}{more}: it has to hold {task.files}"
        )
    if not samples:
        raise TaskError(f"task {task.name}: there is no question in {folder}")
    twice = [name for name, times in Counter(sample.id for sample in samples).items() if times > 1]
    if twice:
        raise TaskError(f"task {task.name}: two questions in {folder} have the id {twice[0]}")
    return tuple(sorted(samples, key=lambda sample: sample.id))


def _sample(task: Task, row: Row, item: Item) -> Sample:
    if task.rule == "letter" and not 2 <= len(item.choices) <= len(_LETTERS):
        raise TaskError(f"{row.where} has {len(item.choices)} choices, and the rule letter needs 2 to 26")
    if item.choices and item.answer not in item.choices:
        raise TaskError(f"{row.where}: the answer {item.answer!r} is none of its choices")
    answer = _LETTERS[item.choices.index(item.answer)] if task.rule == "letter" else item.answer
    turns = [{"from": "human", "value": _asked(task, item)}, {"from": "gpt", "value": answer}]
    try:
        return Sample.model_validate(
            {
                "id": item.id,
                "conversations": turns,
                "video": item.video,
                "audio": item.audio,
                "image": item.image,
                "kind": item.kind,
                "choices": item.choices,
            }
        )
    except ValidationError as error:
        raise TaskError(f"{row.where} is no question: {error.errors()[0]['msg']}") from None


def _asked(task: Task, item: Item) -> str:
    lettered = (f"{letter}. {choice}" for letter, choice in zip(_LETTERS, item.choices, strict=False))
    filled = {"{question}": item.question, "{choices}": "\n".join(lettered)}
    # In one pass, since a question may hold braces of its own.
    return re.sub(r"\{question\}|\{choices\}", lambda match: filled[match.group()], task.prompt)
