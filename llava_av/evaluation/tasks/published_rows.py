"""Rows of published files, and the question that a reader makes from a row."""

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
    """One question of any benchmark."""

    id: str
    question: str
    answer: str
    """Right answer; one of `choices` if there are choices."""
    choices: tuple[str, ...] = ()
    kind: str
    """`<family>_<type>`; the family names the modalities that the question needs."""
    video: tuple[str, ...] = ()
    audio: tuple[str, ...] = ()
    image: tuple[str, ...] = ()


class Row:
    """One row, with its file and number for error messages."""

    def __init__(self, where: str, fields: Any) -> None:
        """Check that the row is a mapping.

        Args:
            where: File and row, for error messages.
            fields: Content of the row.

        Raises:
            TaskError: The row is not a mapping.
        """
        self.where = where
        if not isinstance(fields, Mapping):
            raise TaskError(
                f"{where} must be a mapping of column names to values, not {type(fields).__name__}"
            )
        self._fields = fields

    def get(self, column: str) -> Any:
        """Return the column's value.

        Raises:
            TaskError: The column is missing; the message names the existing columns.
        """
        if column not in self._fields or self._fields[column] is None:
            raise TaskError(
                f"{self.where} has no column {column}; its columns are {', '.join(map(str, self._fields))}"
            )
        return self._fields[column]

    def find(self, column: str) -> Any:
        """Return the column's value; None if the column is missing."""
        return self._fields.get(column)

    def text(self, column: str) -> str:
        """Return the column's value as text; numbers are converted.

        Raises:
            TaskError: The column is missing, empty or not text.
        """
        value = self.get(column)
        if not isinstance(value, str | int | float) or not str(value).strip():
            raise TaskError(f"{self.where}: {column} {value!r} must be text that is not empty")
        return str(value).strip()

    def texts(self, column: str) -> tuple[str, ...]:
        """Return the column's list of texts, which may also be encoded as JSON.

        Raises:
            TaskError: The column is missing or is not a list of texts.
        """
        value = self.get(column)
        if isinstance(value, str):
            try:
                value = json.loads(value)
            except (ValueError, RecursionError):
                raise TaskError(f"{self.where}: {column} {value!r} must be a list") from None
        if not isinstance(value, list) or not all(isinstance(one, str | int | float) for one in value):
            raise TaskError(f"{self.where}: {column} {value!r} must be a list of texts")
        return tuple(str(one).strip() for one in value)


def json_value(path: Path) -> Any:
    """Return the content of a JSON file.

    Raises:
        TaskError: The file is missing or is not JSON.
    """
    try:
        return json.loads(_text(path))
    except (ValueError, RecursionError) as error:
        raise TaskError(f"{path} is not JSON: {error}") from None


def json_rows(path: Path) -> Iterator[Row]:
    """Iterate over the rows of a JSON file with a list of mappings.

    Raises:
        TaskError: The file is not JSON or does not contain a list.
    """
    value = json_value(path)
    if not isinstance(value, list):
        raise TaskError(f"{path} must be a list of questions, not {type(value).__name__}")
    for number, fields in enumerate(value, start=1):
        yield Row(f"{path.name} row {number}", fields)


def json_lines(path: Path) -> Iterator[Row]:
    """Iterate over the rows of a JSON Lines file.

    Raises:
        TaskError: A line is not JSON or is not a mapping.
    """
    # splitlines() would also split at U+2028 and similar characters within a text.
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
    """Return the kind of question for a family and the types of a benchmark."""
    words = [re.sub(r"[\W_]+", "-", name.lower()).strip("-") for name in types]
    return "_".join([family, *filter(None, words)])


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise TaskError(f"{path} is missing") from None
    except (OSError, UnicodeDecodeError) as error:
        raise TaskError(f"cannot read {path}: {error}") from None
