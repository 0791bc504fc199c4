"""A reader for each published format: from its rows to questions, nothing left out without a word."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from llava_av.evaluation.reply_parsing import parse_open
from llava_av.evaluation.tasks.rows import (
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
    """`qa.json`: Question, Choice (lettered), Answer (a letter), video_id, Type."""
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
    """`worldsense_qa.json`: a mapping of videos, each with audio_class and with task0, task1, …."""
    path = folder / "worldsense_qa.json"
    videos = json_value(path)
    if not isinstance(videos, Mapping):
        raise TaskError(f"{path} holds no mapping of videos")
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
    """`val_qa.json`: video_name, question_text, multi_choice, answer (an index from 0), and two types."""
    for row in json_rows(folder / "val_qa.json"):
        choices, index = row.texts("multi_choice"), row.get("answer")
        if not isinstance(index, int) or not 0 <= index < len(choices):
            raise TaskError(f"{row.where}: answer {index!r} is no index of its {len(choices)} choices")
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
    """`avqa-test.json`: question_content with slots, templ_values that fill them, the answer under `anser`.

    The choices are all answers that the file holds, as in the published classification of 42.
    """
    rows = list(json_rows(folder / "avqa-test.json"))
    answers = tuple(sorted({row.text("anser") for row in rows}))
    for row in rows:
        types = row.texts("type")
        if len(types) != 2 or types[0] not in _SCENES:
            raise TaskError(
                f"{row.where}: type is {list(types)}, not one of {', '.join(_SCENES)} and a second one"
            )
        yield (
            row,
            Item(
                id=row.text("question_id"),
                question=_filled(row),
                choices=answers,
                answer=row.text("anser"),
                kind=kind_of(_SCENES[types[0]], types[1]),
                video=(_one_there(folder, _MUSIC_FOLDERS, f"{row.text('video_id')}.mp4"),),
            ),
        )


def clotho_aqa(folder: Path) -> _Read:
    """`clotho_aqa_test.csv`: file_name, QuestionText, answer; a row for each of three people's answers.

    The right answer is the one that at least two people gave. A question about which no two agree has no
    right answer and is not asked.
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
    """`questions.jsonl`, for tasks of one's own: id, question, answer, and choices, type and media if any."""
    for row in json_lines(folder / "questions.jsonl"):
        media = {name: _names(row, name) for name in ("video", "audio", "image")}
        family = row.find("family") or "all"
        if family not in ("all", "visual", "audio", "joint"):
            raise TaskError(f"{row.where}: family {family!r} is none of all, visual, audio, joint")
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


def _one_there(folder: Path, places: tuple[str, ...], name: str) -> str:
    """Return the file in the first folder that has it, or in the first folder if none has."""
    there = (f"{place}/{name}" for place in places if (folder / place / name).is_file())
    return next(there, f"{places[0]}/{name}")


def _names(row: Row, column: str) -> tuple[str, ...]:
    value = row.find(column)
    return () if value is None else row.texts(column) if isinstance(value, list) else (row.text(column),)


def _unlettered(choices: tuple[str, ...]) -> tuple[str, ...]:
    """Choices without the letters before them, if they all have the right ones."""
    letters = [_LETTERED.match(choice) for choice in choices]
    if not all(match and ord(match[1]) - ord("A") == place for place, match in enumerate(letters)):
        return choices
    return tuple(_LETTERED.sub("", choice, count=1) for choice in choices)


def _by_letter(row: Row, letter: str, choices: tuple[str, ...]) -> str:
    given = re.fullmatch(r"\(?([A-Za-z])[.):]?", letter)
    place = ord(given[1].upper()) - ord("A") if given else len(choices)
    if place >= len(choices):
        raise TaskError(f"{row.where}: the answer {letter!r} is no letter of its {len(choices)} choices")
    return _unlettered(choices)[place]


def _one_of(row: Row, column: str, known: Mapping[str, str]) -> str:
    value = row.text(column)
    if value not in known:
        raise TaskError(f"{row.where}: {column} is {value!r}, not one of {', '.join(known)}")
    return known[value]


def _filled(row: Row) -> str:
    """Return the question with its slots filled in order."""
    text, values = row.text("question_content"), row.texts("templ_values")
    slots = len(_SLOT.findall(text))
    if slots != len(values):
        raise TaskError(f"{row.where}: {slots} slots in question_content, {len(values)} templ_values")
    filling = iter(values)
    return _SLOT.sub(lambda match: next(filling).replace("_", " "), text)
