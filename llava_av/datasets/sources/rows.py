"""Location and rows of a folder's conversations: JSON Lines, or one JSON array as in LLaVA's own files."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from llava_av.datasets.schema import Sample, parse_row, parse_sample
from llava_av.datasets.sources.line_keys import EXAMPLE
from llava_av.errors import UserError
from llava_av.parsing import unique_object

__all__ = ["CONVERSATIONS", "DatasetError", "Rows", "find_rows", "read_rows"]

CONVERSATIONS = "conversations.jsonl"
_ARRAY = "conversations.json"
_TABLES = (".csv", ".tsv")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class DatasetError(UserError):
    """A dataset that cannot be used at all."""


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Rows of one file, not yet parsed as samples."""

    file: str
    """Name of the file."""
    unit: Literal["line", "entry"]
    """Name of a row in messages: a line of JSON Lines or an entry of an array."""
    rows: tuple[tuple[int, Any], ...]
    """Number of each row, from 1, with its bytes (a line) or its JSON value (an entry)."""

    def label(self, number: int) -> str:
        """Return the name of a row for messages."""
        return f"{self.file}:{number}" if self.unit == "line" else f"{self.file} entry {number}"

    def parse(self, number: int, row: Any) -> Sample:
        """Parse one of `rows`; see `parse_sample`."""
        return parse_sample(row, number) if self.unit == "line" else parse_row(row, number)


def find_rows(root: Path) -> Rows:
    """Read `conversations.jsonl` of a folder, or `conversations.json`, or its only JSON file.

    Raises:
        DatasetError: The folder or the file does not exist, there are several JSON files, or the file cannot
            be read.
    """
    if not root.is_dir():
        what = "is not a folder" if root.exists() else "does not exist"
        raise DatasetError(f"the dataset folder {root} {what}")
    for name in (CONVERSATIONS, _ARRAY):
        if (root / name).is_file():
            return read_rows(root / name)
    others = sorted(path for path in root.iterdir() if path.suffix.lower() in (".json", ".jsonl"))
    if len(others) == 1:
        return read_rows(others[0])
    raise DatasetError(f"the dataset folder {root} has no {CONVERSATIONS}{_advice(root, others)}")


def _advice(root: Path, others: list[Path]) -> str:
    table = next((path for path in sorted(root.iterdir()) if path.suffix.lower() in _TABLES), None)
    if others:
        name = CONVERSATIONS if others[0].suffix.lower() == ".jsonl" else _ARRAY
        return f": rename one of its {len(others)} JSON files, such as {others[0].name}, to {name}"
    if table is not None:
        command = f"llava-av data convert {table} {root / CONVERSATIONS}"
        return f": create it with `{command}`; a valid line is {EXAMPLE}"
    return f" and no {_ARRAY}: write one line for each sample, such as {EXAMPLE}"


def read_rows(path: Path) -> Rows:
    """Read the rows of a JSON Lines file or of a JSON array, which are distinguished by content.

    Raises:
        DatasetError: The file cannot be read, is one JSON object, or is an invalid array.
    """
    try:
        content = path.read_bytes().removeprefix(_BYTE_ORDER_MARK)
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror or error}") from None
    whole = _whole_value(path, content)
    if isinstance(whole, list):
        return Rows(file=path.name, unit="entry", rows=tuple(enumerate(whole, start=1)))
    if isinstance(whole, dict) and b"\n" in content.strip():
        raise DatasetError(f"{path} is a single JSON object: put the samples into an array, [{EXAMPLE}, …]")
    return Rows(file=path.name, unit="line", rows=tuple(_lines(content)))


def _lines(content: bytes) -> Iterator[tuple[int, bytes]]:
    for number, line in enumerate(content.split(b"\n"), start=1):
        if line.strip():
            yield number, line


def _whole_value(path: Path, content: bytes) -> Any:
    """Parse a file as one JSON array or object; None if it is neither."""
    opening = content.lstrip()[:1]
    if opening not in (b"[", b"{"):
        return None
    try:
        return json.loads(content.decode("utf-8"), object_pairs_hook=unique_object)
    except (ValueError, RecursionError) as error:
        if opening == b"[" and path.suffix.lower() == ".json":
            raise DatasetError(f"{path} is not a valid JSON array: {error}") from None
        return None
