"""Conversion of a benchmark's published files to samples with the prompt of the task."""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from pydantic import ValidationError

from llava_av.datasets.schema import Sample
from llava_av.evaluation.tasks import benchmark_files
from llava_av.evaluation.tasks.published_rows import Item, Row
from llava_av.evaluation.tasks.task import Task, TaskError

__all__ = ["read_task_samples"]

_READERS: Mapping[str, Callable[[Path], Iterator[tuple[Row, Item]]]] = {
    "avqa": benchmark_files.avqa,
    "clotho_aqa": benchmark_files.clotho_aqa,
    "daily_omni": benchmark_files.daily_omni,
    "music_avqa": benchmark_files.music_avqa,
    "questions": benchmark_files.questions,
    "worldsense": benchmark_files.worldsense,
}
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def read_task_samples(task: Task, folder: Path) -> tuple[Sample, ...]:
    """Read all questions, and check that their media exist.

    Args:
        task: The task, with the format and the prompt.
        folder: Folder with the files of the task; media paths are relative to it.

    Raises:
        TaskError: A file, a column or a media file is missing, or a row is not a question. The message names
            the row and the number of missing media files.
    """
    if not folder.is_dir():
        raise TaskError(f"task {task.name}: folder {folder} does not exist: create it with {task.files}")
    samples: list[Sample] = []
    absent: dict[str, Row] = {}
    for row, item in _READERS[task.reader](folder):
        for path in (*item.video, *item.audio, *item.image):
            if not (folder / path).is_file():
                absent.setdefault(path, row)
        samples.append(_sample(task, row, item))
    if absent:
        path, row = next(iter(absent.items()))
        more = f" and {len(absent) - 1} more files" if len(absent) > 1 else ""
        raise TaskError(
            f"{row.where}: missing {path}{more} in {folder}: the folder must contain {task.files}"
        )
    if not samples:
        raise TaskError(
            f"task {task.name}: found no questions in {folder}: the folder must contain {task.files}"
        )
    twice = [name for name, times in Counter(sample.id for sample in samples).items() if times > 1]
    if twice:
        raise TaskError(
            f"task {task.name}: several questions in {folder} have id {twice[0]}: make IDs unique"
        )
    return tuple(sorted(samples, key=lambda sample: sample.id))


def _sample(task: Task, row: Row, item: Item) -> Sample:
    if task.rule == "letter" and not 2 <= len(item.choices) <= len(_LETTERS):
        raise TaskError(f"{row.where} has {len(item.choices)} choices, but rule letter needs 2 to 26")
    if item.choices and item.answer not in item.choices:
        raise TaskError(f"{row.where}: answer {item.answer!r} must be one of its choices")
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
        raise TaskError(f"{row.where} is not a question: {error.errors()[0]['msg']}") from None


def _asked(task: Task, item: Item) -> str:
    lettered = (f"{letter}. {choice}" for letter, choice in zip(_LETTERS, item.choices, strict=False))
    filled = {"{question}": item.question, "{choices}": "\n".join(lettered)}
    # Both are replaced in one pass, because a question may contain braces.
    return re.sub(r"\{question\}|\{choices\}", lambda match: filled[match.group()], task.prompt)
