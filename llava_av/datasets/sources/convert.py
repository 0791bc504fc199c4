"""Conversion of other tools' files to `conversations.jsonl`: tables, messages, query and response, ShareGPT.

A row becomes a line if its turns have one of the forms below. All other keys, including media, are copied,
and the line is checked as in a dataset's folder. The conversion stops at the first row that cannot be
converted.
"""

import csv
import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, TypedDict

from llava_av.datasets.schema import Sample, SampleError, parse_row, to_jsonl
from llava_av.datasets.sources.rows import CONVERSATIONS, DatasetError, read_rows
from llava_av.datasets.sources.sample_checks import unusable
from llava_av.files import write_whole
from llava_av.parsing import unique_object

__all__ = ["Converted", "convert_file"]

_SPEAKERS = {
    **dict.fromkeys(("human", "user"), "human"),
    **dict.fromkeys(("gpt", "assistant", "bot", "model", "chatgpt"), "gpt"),
    "system": "system",
}
# Keys of a question and of its answer; the first that a row has counts.
_ASKED = ("query", "question", "instruction", "prompt")
_ANSWERED = ("response", "answer", "output", "completion")
_LISTS = ("image", "images", "video", "videos", "audio", "audios", "choices")
_SEPARATOR = ";"
_PARTS = ("image", "video", "audio")

_Turn = TypedDict("_Turn", {"from": str, "value": object})
_Turns = list[_Turn]


@dataclass(frozen=True, kw_only=True)
class Converted:
    """Result of a conversion."""

    samples: int
    """Lines written."""
    system_prompts: int
    """Samples whose system prompt was prepended to the next question."""


def convert_file(source: Path, target: Path) -> Converted:
    """Write the samples of a `.csv`, `.tsv`, `.json` or `.jsonl` file as `conversations.jsonl`.

    Args:
        source: File to read.
        target: File to write; it must not exist, and paths of media are relative to its folder.

    Raises:
        DatasetError: The source cannot be read, one of its rows cannot be converted, or the target exists.
    """
    if target.is_dir():
        raise DatasetError(f"{target} is a folder: name a new file, such as {target / CONVERSATIONS}")
    if target.exists():
        raise DatasetError(f"{target} exists: name another file, or delete it")
    samples: dict[str, Sample] = {}
    prompts = 0
    for number, row in _rows(source):
        try:
            sample = parse_row(_with_id(_line(row), samples), number)
            if problem := unusable(sample):
                raise SampleError(number, problem)
            prompts += any(turn["from"] == "system" for turn in _turns(row)[0])
        except (_Unreadable, SampleError) as error:
            raise DatasetError(f"{source} row {number}: {getattr(error, 'reason', error)}") from None
        if samples.setdefault(sample.id, sample) is not sample:
            raise DatasetError(
                f"{source} row {number}: another row has the same id {sample.id!r}; change one"
            )
    if not samples:
        raise DatasetError(f"{source} has no rows: name a file with at least one")
    _write(target, to_jsonl(list(samples.values())))
    return Converted(samples=len(samples), system_prompts=prompts)


def _write(target: Path, text: str) -> None:
    try:
        write_whole(target, text)
    except OSError as error:
        raise DatasetError(f"{target} cannot be written: {error.strerror or error}") from None


class _Unreadable(ValueError):
    """A row that is not a conversation; the text says why."""


def _rows(source: Path) -> Iterator[tuple[int, Mapping[str, object]]]:
    if source.suffix.lower() in (".csv", ".tsv"):
        yield from enumerate(_table(source), start=1)
    elif source.suffix.lower() in (".json", ".jsonl"):
        for number, row in read_rows(source).rows:
            yield number, _mapping(source, number, row)
    else:
        raise DatasetError(f"{source}: only .csv, .tsv, .json and .jsonl files can be converted")


def _mapping(source: Path, number: int, row: Any) -> Mapping[str, object]:
    try:
        value = json.loads(row, object_pairs_hook=unique_object) if isinstance(row, bytes) else row
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{source} row {number} is not valid JSON: {error}") from None
    if not isinstance(value, Mapping):
        raise DatasetError(f"{source} row {number} is not a JSON object")
    return value


def _table(source: Path) -> Iterator[Mapping[str, object]]:
    """Yield the rows of a table by lower-case column names, without empty cells."""
    try:
        text = source.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DatasetError(f"{source} cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise DatasetError(f"{source} is not UTF-8 text: {error}; save it as UTF-8") from None
    for cells in _cells(source, text):
        if None in cells:
            raise DatasetError(f"{source} has a row with more cells than its first row: {cells}"[:300])
        row = {name.strip().lower(): cell for name, cell in cells.items() if cell}
        yield {name: _parts(cell) if name in _LISTS else cell for name, cell in row.items()}


def _parts(cell: str) -> list[str]:
    return [part.strip() for part in cell.split(_SEPARATOR)]


def _cells(source: Path, text: str) -> Iterator[dict[str, str]]:
    head = text.partition("\n")[0]
    delimiter = max(",;\t", key=head.count)
    # A cell may be as long as the file, which is in memory anyway.
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))
    try:
        table = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
        names = Counter(name.strip().lower() for name in table.fieldnames or () if name.strip())
        for name, times in names.items():
            if times > 1:
                raise DatasetError(f"{source} has {times} columns {name!r}: keep one, or rename the others")
        yield from table
    except csv.Error as error:
        raise DatasetError(f"{source} is not a valid table: {error}") from None


def _line(row: Mapping[str, object]) -> dict[str, object]:
    """Return a row in the form of `conversations.jsonl`, with the media named in its messages."""
    turns, used = _turns(row)
    media: dict[str, list[str]] = {}
    conversations: _Turns = []
    system = ""
    for turn in turns:
        text = _text(turn["value"], media)
        if turn["from"] == "system":
            system += f"{text}\n\n"
        elif turn["from"] == "human":
            conversations.append({"from": "human", "value": system + text})
            system = ""
        else:
            conversations.append({"from": "gpt", "value": text})
    if system:
        raise _Unreadable("a system prompt follows the last question: put it before a question")
    rest = {key: value for key, value in row.items() if key not in used}
    both = sorted(media.keys() & (rest.keys() | {key.removesuffix("s") for key in rest}))
    if both:
        raise _Unreadable(f"{both[0]} files are named both in the messages and in a key: keep one")
    return {**rest, **media, "conversations": conversations}


def _turns(row: Mapping[str, object]) -> tuple[_Turns, tuple[str, ...]]:
    """Return the turns of a row, including system prompts, and the keys that contained them."""
    for key in ("conversations", "messages"):
        turns = row.get(key)
        if isinstance(turns, Sequence) and not isinstance(turns, str):
            return [_turn(turn, number) for number, turn in enumerate(turns, start=1)], (key,)
    asked = next((key for key in _ASKED if row.get(key)), None)
    answered = next((key for key in _ANSWERED if key in row), None)
    if asked is None or answered is None:
        one, other, given = "/".join(_ASKED), "/".join(_ANSWERED), ", ".join(row)
        raise _Unreadable(
            f"has neither conversations, messages nor {one} with {other}; its non-empty keys: {given}"[:300]
        )
    used = (asked, answered, "history", "system", *(["input"] if asked == "instruction" else []))
    return _pair(row, asked, answered), used


def _turn(turn: object, number: int) -> _Turn:
    fields = turn if isinstance(turn, Mapping) else {}
    role = fields.get("from", fields.get("role"))
    speaker = _SPEAKERS.get(role.lower()) if isinstance(role, str) else None
    value = fields.get("value", fields.get("content"))
    if speaker is None:
        raise _Unreadable(
            f"turn {number} is by {role!r} with {value!r}: known are {', '.join(_SPEAKERS)}"[:300]
        )
    if value is None:
        raise _Unreadable(f"turn {number} by {role} has no text: remove it")
    return {"from": speaker, "value": value}


def _pair(row: Mapping[str, object], asked: str, answered: str) -> _Turns:
    question = row[asked]
    if asked == "instruction" and row.get("input"):
        question = f"{_plain(question, asked)}\n{_plain(row['input'], 'input')}"
    turns: _Turns = [{"from": "system", "value": row["system"]}] if row.get("system") else []
    history = row.get("history") or []
    if not isinstance(history, list):
        raise _Unreadable(f"its history is {str(history)[:100]!r}, not a list of [question, answer]")
    for pair in history:
        if not isinstance(pair, list) or len(pair) != 2:
            raise _Unreadable(f"its history contains {str(pair)[:100]!r}, not [question, answer]")
        turns += [{"from": "human", "value": pair[0]}, {"from": "gpt", "value": pair[1]}]
    return [*turns, {"from": "human", "value": question}, {"from": "gpt", "value": row[answered]}]


def _plain(value: Any, name: str) -> str:
    if not isinstance(value, str | int | float):
        raise _Unreadable(f"{name} is {str(value)[:100]!r}, not text")
    return str(value)


def _text(value: Any, media: dict[str, list[str]]) -> str:
    """Return the text of a turn; media become placeholders, and their paths are added to `media`."""
    if isinstance(value, str | int | float):
        return str(value)
    texts: list[str] = []
    for part in value if isinstance(value, Iterable) and not isinstance(value, Mapping) else [value]:
        kind = str(part.get("type", "")).removesuffix("_url") if isinstance(part, Mapping) else ""
        if kind == "text":
            texts.append(_plain(part.get("text"), "the text of a message"))
        elif kind in _PARTS:
            texts.append(f"<{kind}>\n")
            media.setdefault(kind, []).extend(_part_paths(part, kind))
        else:
            raise _Unreadable(
                f"a message contains {str(part)[:100]!r}, which is neither text nor {', '.join(_PARTS)}"
            )
    return "".join(texts)


def _part_paths(part: Mapping[str, object], kind: str) -> list[str]:
    """Return the path of a message's media part, if the part names one."""
    path = part.get(kind, part.get(f"{kind}_url", part.get("path", part.get("url"))))
    path = path.get("url") if isinstance(path, Mapping) else path
    if not isinstance(path, str | None):
        raise _Unreadable(f"a message contains a {kind} named {str(path)[:100]!r}: name one file")
    return [] if path is None else [path]


def _with_id(line: dict[str, object], taken: Mapping[str, object]) -> dict[str, object]:
    """Add an ID to a line without one: a hash of its content, which other rows do not change."""
    if line.get("id") is not None:
        return line
    content = json.dumps(line, sort_keys=True, ensure_ascii=False)
    name = hashlib.sha256(content.encode("utf-8", "replace")).hexdigest()[:16]
    names = (name if number == 1 else f"{name}-{number}" for number in count(1))
    return {**line, "id": next(one for one in names if one not in taken)}
