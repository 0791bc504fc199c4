"""Rows of published files, and what every format's reader makes of one."""

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava_av.evaluation.tasks.task import TaskError

__all__ = ["Item", "Row", "csv_rows", "json_lines", "json_rows", "json_value", "kind_of"]


@dataclass(frozen=True, kw_only=True)
class Item:
    """One question, of whatever benchmark."""

    id: str
    question: str
    answer: str
    """As in `choices`, where there are some."""
    choices: tuple[str, ...] = ()
    kind: str
    """`<family>_<type>`; the family is `visual`, `audio` or `joint` by the streams that it needs."""
    video: tuple[str, ...] = ()
    audio: tuple[str, ...] = ()
    image: tuple[str, ...] = ()


class Row:
    """One row, which knows where it stands."""

    def __init__(self, where: str, fields: Any) -> None:
        """Take what was read.

        Args:
            where: file and row, for errors.
            fields: the row; refused unless it is a mapping.
        """
        self.where = where
        if not isinstance(fields, Mapping):
            raise TaskError(f"{where} is no row with named columns")
        self._fields = fields

    def get(self, column: str) -> Any:
        """Return the column's value.

        Raises:
            TaskError: there is none; names the columns that there are.
        """
        if column not in self._fields or self._fields[column] is None:
            raise TaskError(
                f"{self.where} has no column {column}; it has {', '.join(map(str, self._fields))}"
            )
        return self._fields[column]

    def find(self, column: str) -> Any:
        """Return the column's value; None if it has none."""
        return self._fields.get(column)

    def text(self, column: str) -> str:
        """Return the column's value as text; numbers are converted.

        Raises:
            TaskError: there is none, or it is empty.
        """
        value = self.get(column)
        if not isinstance(value, str | int | float) or not str(value).strip():
            raise TaskError(f"{self.where}: {column} is {value!r}, no text")
        return str(value).strip()

    def texts(self, column: str) -> tuple[str, ...]:
        """Return the column's list of texts, which may be JSON in a text.

        Raises:
            TaskError: there is none, or it is something else.
        """
        value = self.get(column)
        if isinstance(value, str):
            try:
                value = json.loads(value)
            except (ValueError, RecursionError):
                raise TaskError(f"{self.where}: {column} is {value!r}, no list") from None
        if not isinstance(value, list) or not all(isinstance(one, str | int | float) for one in value):
            raise TaskError(f"{self.where}: {column} is {value!r}, no list of texts")
        return tuple(str(one).strip() for one in value)


def json_value(path: Path) -> Any:
    """Return the content of a JSON file.

    Raises:
        TaskError: there is no such file, or it is not JSON.
    """
    try:
        return json.loads(_text(path))
    except (ValueError, RecursionError) as error:
        raise TaskError(f"{path} is not JSON: {error}") from None


def json_rows(path: Path) -> Iterator[Row]:
    """Iterate over the rows of a JSON file with a list of mappings.

    Raises:
        TaskError: it holds something else.
    """
    value = json_value(path)
    if not isinstance(value, list):
        raise TaskError(f"{path} holds no list of questions")
    for number, fields in enumerate(value, start=1):
        yield Row(f"{path.name} row {number}", fields)


def json_lines(path: Path) -> Iterator[Row]:
    """Iterate over the rows of a JSON Lines file.

    Raises:
        TaskError: a line is not JSON, or no mapping.
    """
    # Not splitlines(), which also ends a line at U+2028 and the like within a text.
    for number, line in enumerate(_text(path).split("\n"), start=1):
        if line.strip():
            where = f"{path.name} line {number}"
            try:
                yield Row(where, json.loads(line))
            except (ValueError, RecursionError) as error:
                raise TaskError(f"{where} is not JSON: {error}") from None


def csv_rows(path: Path) -> Iterator[Row]:
    """Iterate over the rows of a CSV file with a header; a quoted cell may have several lines."""
    reader = csv.DictReader(io.StringIO(_text(path), newline=""))
    for fields in reader:
        yield Row(f"{path.name} line {reader.line_num}", fields)


def kind_of(family: str, *types: str) -> str:
    """Return the kind of question of a family, of types as a benchmark spells them."""
    words = [re.sub(r"[\W_]+", "-", name.lower()).strip("-") for name in types]
    return "_".join([family, *filter(None, words)])


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise TaskError(f"{path} is missing") from None
    except (OSError, UnicodeDecodeError) as error:
        raise TaskError(f"{path} cannot be read: {error}") from None
