"""Readers of the published formats, which yield the rows of a file and their questions."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from llava_av.evaluation.reply_parsing import parse_open
from llava_av.evaluation.tasks.published_rows import (
    Item,
    Row,
    csv_rows,
    json_lines,
    json_rows,
    json_value,
    kind_of,
)
from llava_av.evaluation.tasks.task import TaskError

__all__ = ["avqa", "clotho_aqa", "daily_omni", "music_avqa", "questions", "worldsense"]

_Read = Iterator[tuple[Row, Item]]
_RELATIONS = {"View": "visual", "Sound": "audio", "Both": "joint"}
_SCENES = {"Visual": "visual", "Audio": "audio", "Audio-Visual": "joint"}
_SLOT = re.compile(r"<[A-Za-z]+>")
_LETTERED = re.compile(r"\s*\(?([A-Z])\s*[.):]\s*")
_AGREE = 2
_MUSIC_FOLDERS = ("videos", "MUSIC-AVQA-videos-Real", "MUSIC-AVQA-videos-Synthetic")


def daily_omni(folder: Path) -> _Read:
    """Read `qa.json`: Question, Choice (lettered), Answer (a letter), video_id, Type."""
    numbers: Counter[str] = Counter()
    for row in json_rows(folder / "qa.json"):
        video = row.text("video_id")
        numbers[video] += 1
        choices = row.texts("Choice")
        yield (
            row,
            Item(
                id=f"{video}-{numbers[video]}",
                question=row.text("Question"),
                choices=_unlettered(choices),
                answer=_by_letter(row, row.text("Answer"), choices),
                kind=kind_of("joint", row.text("Type")),
                video=(f"Videos/{video}/{video}_video.mp4",),
            ),
        )


def worldsense(folder: Path) -> _Read:
    """Read `worldsense_qa.json`: a mapping of videos, each with audio_class and task0, task1, …."""
    path = folder / "worldsense_qa.json"
    videos = json_value(path)
    if not isinstance(videos, Mapping):
        raise TaskError(f"{path} must be a mapping of videos, not {type(videos).__name__}: download it again")
    for video, fields in videos.items():
        Row(f"{path.name} video {video}", fields).get("audio_class")
        for name in (name for name in fields if re.fullmatch(r"task\d+", name)):
            row = Row(f"{path.name} video {video} {name}", fields[name])
            choices = row.texts("candidates")
            yield (
                row,
                Item(
                    id=f"{video}-{name}",
                    question=row.text("question"),
                    choices=_unlettered(choices),
                    answer=_by_letter(row, row.text("answer"), choices),
                    kind=kind_of("joint", row.text("task_type")),
                    video=(f"videos/{video}.mp4",),
                ),
            )


def avqa(folder: Path) -> _Read:
    """Read `val_qa.json`: video_name, question_text, multi_choice, answer (an index from 0), two types."""
    for row in json_rows(folder / "val_qa.json"):
        choices, index = row.texts("multi_choice"), row.get("answer")
        if not isinstance(index, int) or not 0 <= index < len(choices):
            raise TaskError(
                f"{row.where}: answer {index!r} must be an index of its {len(choices)} choices, from 0"
            )
        yield (
            row,
            Item(
                id=row.text("id"),
                question=row.text("question_text"),
                choices=choices,
                answer=choices[index],
                kind=kind_of(_one_of(row, "question_relation", _RELATIONS), row.text("question_type")),
                video=(f"videos/{row.text('video_name')}.mp4",),
            ),
        )


def music_avqa(folder: Path) -> _Read:
    """Read `avqa-test.json`: question_content with slots, templ_values for them, the answer in `anser`.

    The choices are all answers in the file, as in the published classification with 42 classes.
    """
    rows = list(json_rows(folder / "avqa-test.json"))
    answers = tuple(sorted({row.text("anser") for row in rows}))
    for row in rows:
        types = row.texts("type")
        if len(types) != 2 or types[0] not in _SCENES:
            raise TaskError(
                f"{row.where}: type={list(types)} must be one of {', '.join(_SCENES)}, then a second type"
            )
        yield (
            row,
            Item(
                id=row.text("question_id"),
                question=_filled(row),
                choices=answers,
                answer=row.text("anser"),
                kind=kind_of(_SCENES[types[0]], types[1]),
                video=(_first_with(folder, _MUSIC_FOLDERS, f"{row.text('video_id')}.mp4"),),
            ),
        )


def clotho_aqa(folder: Path) -> _Read:
    """Read `clotho_aqa_test.csv`: file_name, QuestionText, answer; one row for each of three annotators.

    The correct answer is the one that at least two annotators gave. A question without such an answer is left
    out.
    """
    path = folder / "clotho_aqa_test.csv"
    asked: dict[tuple[str, str], list[Row]] = {}
    for row in csv_rows(path):
        asked.setdefault((row.text("file_name"), row.text("QuestionText")), []).append(row)
    numbers: Counter[str] = Counter()
    for (file, question), rows in asked.items():
        numbers[file] += 1
        given = Counter(parse_open(row.text("answer")) or "" for row in rows)
        answer, times = given.most_common(1)[0]
        if times >= min(_AGREE, len(rows)):
            yield (
                rows[0],
                Item(
                    id=f"{file}-{numbers[file]}",
                    question=question,
                    answer=answer,
                    kind=kind_of("audio", "yes-no" if answer in ("yes", "no") else "word"),
                    audio=(f"audio_files/{file}",),
                ),
            )


def questions(folder: Path) -> _Read:
    """Read `questions.jsonl` of a user's task: id, question, answer; choices, type and media are optional."""
    for row in json_lines(folder / "questions.jsonl"):
        media = {name: _names(row, name) for name in ("video", "audio", "image")}
        family = row.find("family") or "all"
        if family not in ("all", "visual", "audio", "joint"):
            raise TaskError(f"{row.where}: family {family!r} must be one of all, visual, audio, joint")
        yield (
            row,
            Item(
                id=row.text("id"),
                question=row.text("question"),
                choices=row.texts("choices") if row.find("choices") else (),
                answer=row.text("answer"),
                kind=kind_of(family, row.text("type") if row.find("type") else ""),
                **media,
            ),
        )


def _first_with(folder: Path, folders: tuple[str, ...], name: str) -> str:
    """Return the path in the first folder with the file, or in the first folder if none has it."""
    found = (f"{one}/{name}" for one in folders if (folder / one / name).is_file())
    return next(found, f"{folders[0]}/{name}")


def _names(row: Row, column: str) -> tuple[str, ...]:
    value = row.find(column)
    return () if value is None else row.texts(column) if isinstance(value, list) else (row.text(column),)


def _unlettered(choices: tuple[str, ...]) -> tuple[str, ...]:
    """Return the choices without their letters if all have the right letter, otherwise unchanged."""
    letters = [_LETTERED.match(choice) for choice in choices]
    if not all(match and ord(match[1]) - ord("A") == place for place, match in enumerate(letters)):
        return choices
    return tuple(_LETTERED.sub("", choice, count=1) for choice in choices)


def _by_letter(row: Row, letter: str, choices: tuple[str, ...]) -> str:
    given = re.fullmatch(r"\(?([A-Za-z])[.):]?", letter)
    place = ord(given[1].upper()) - ord("A") if given else len(choices)
    if place >= len(choices):
        raise TaskError(
            f"{row.where}: answer {letter!r} must be the letter of one of its {len(choices)} choices"
        )
    return _unlettered(choices)[place]


def _one_of(row: Row, column: str, known: Mapping[str, str]) -> str:
    value = row.text(column)
    if value not in known:
        raise TaskError(f"{row.where}: {column} {value!r} must be one of {', '.join(known)}")
    return known[value]


def _filled(row: Row) -> str:
    """Return the question with its slots filled in order."""
    text, values = row.text("question_content"), row.texts("templ_values")
    slots = len(_SLOT.findall(text))
    if slots != len(values):
        raise TaskError(
            f"{row.where}: question_content has {slots} slots, but there are {len(values)} templ_values"
        )
    filling = iter(values)
    return _SLOT.sub(lambda match: next(filling).replace("_", " "), text)
