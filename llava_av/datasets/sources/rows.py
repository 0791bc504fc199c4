"""Location and rows of a folder's conversations: JSON Lines, or one JSON array as in LLaVA's own files."""

import contextlib
import functools
import json
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from llava_av.datasets.schema import Sample, parse_row, parse_sample
from llava_av.datasets.sources.line_keys import EXAMPLE
from llava_av.errors import UserError
from llava_av.parsing import unique_object

__all__ = [
    "CONVERSATIONS",
    "DatasetError",
    "Rows",
    "choose_file",
    "conversion",
    "damage",
    "find_rows",
    "read_rows",
    "source_files",
]

CONVERSATIONS = "conversations.jsonl"
_ARRAY = "conversations.json"
_TABLES = (".csv", ".tsv")
_JSON = (".json", ".jsonl")
_ARCHIVES = (".parquet", ".tar", ".tgz")
_CONVERTIBLE = (*_TABLES, *_ARCHIVES, *_JSON)
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class DatasetError(UserError):
    """A dataset that cannot be used at all."""


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Rows of one file, not yet parsed as samples."""

    path: Path
    """The file."""
    unit: Literal["line", "entry"]
    """Name of a row in messages: a line of JSON Lines or an entry of an array."""
    rows: Iterable[tuple[int, Any]]
    """Number of each row, from 1, with its bytes (a line) or its JSON value (an entry); may be read again."""

    @property
    def file(self) -> str:
        """Name of the file."""
        return self.path.name

    def label(self, number: int) -> str:
        """Return the name of a row for messages."""
        return f"{self.file}:{number}" if self.unit == "line" else f"{self.file} entry {number}"

    def parse(self, number: int, row: Any) -> Sample:
        """Parse one of `rows`; see `parse_sample`."""
        if self.unit == "line":
            return parse_sample(row, number, self._convert)
        return parse_row(row, number, self._convert)

    @functools.cached_property
    def _convert(self) -> str:
        return conversion(self.path)

    def advice(self) -> str:
        """Return the command that converts a table with the name of a JSON file; "" if it is not a table."""
        _, first = next(iter(self.rows), (0, b""))
        if self.unit != "line" or b"\0" in first or first.lstrip()[:1] in (b"{", b"["):
            return ""
        if not any(mark in first for mark in (b",", b";", b"\t")):
            return ""
        table = self.path.with_name("original.csv")
        return (
            f"; if {self.file} is a table, convert it with `{_renaming(self.path, table)}`; a valid line of "
            f"{CONVERSATIONS} is {EXAMPLE}"
        )


def conversion(path: Path) -> str:
    """Return the command that converts a file of another format to its folder's conversations."""
    if path.name == CONVERSATIONS:
        return _renaming(path, path.with_name("original.jsonl"))
    if path.is_dir() or path.suffix.lower() in _ARCHIVES:
        # Their media are extracted, to a new folder.
        target = path.absolute().parent / "dataset" / CONVERSATIONS
    else:
        target = path.with_name(CONVERSATIONS)
    return f"llava-av data convert {_quoted(path)} {_quoted(target)}"


def _renaming(path: Path, renamed: Path) -> str:
    return f"mv {_quoted(path)} {_quoted(renamed)} && {conversion(renamed)}"


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))


def find_rows(root: Path) -> Rows:
    """Read `conversations.jsonl` of a folder, or `conversations.json`, or its only JSON file.

    Raises:
        DatasetError: The folder or the file does not exist, there are several JSON files, or the file cannot
            be read.
    """
    if root.is_file():
        raise DatasetError(f"the dataset folder {root} is not a folder: {_file_advice(root)}")
    if not root.is_dir():
        raise DatasetError(f"the dataset folder {root} does not exist: give a folder with {CONVERSATIONS}")
    name, others = choose_file(path.name for path in root.iterdir() if path.is_file())
    if name is not None:
        try:
            return read_rows(root / name)
        except DatasetError:
            # A JSON file with any name may describe archives.
            if name in (CONVERSATIONS, _ARRAY) or not _has_archives(root):
                raise
            others = []
    raise DatasetError(f"the dataset folder {root} has no {CONVERSATIONS}{_advice(root, others)}")


def source_files(source: Path, endings: tuple[str, ...]) -> list[Path]:
    """Return a file, or the files of a folder by path, whose names have one of some endings in any case."""
    if source.is_dir():
        found = sorted(path for path in source.rglob("*") if path.is_file())
    else:
        found = [source] if source.exists() else []
    return [path for path in found if path.name.lower().endswith(endings)]


def damage(error: BaseException) -> str:
    """Return the text of an error of a library as one short line."""
    return " ".join(str(error).split())[:200]


def choose_file(names: Iterable[str]) -> tuple[str | None, list[str]]:
    """Return the name of the file with the conversations, or None, and the names of all JSON files."""
    found = sorted(name for name in names if Path(name).suffix.lower() in _JSON)
    for name in (CONVERSATIONS, _ARRAY):
        if name in found:
            return name, found
    return (found[0] if len(found) == 1 else None), found


def _file_advice(file: Path) -> str:
    suffix = file.suffix.lower()
    if file.name in (CONVERSATIONS, _ARRAY) or suffix not in _CONVERTIBLE:
        return f"give the folder that contains {CONVERSATIONS}, such as {file.parent}"
    return f"give a folder with {CONVERSATIONS}, which `{conversion(file)}` writes; a valid line is {EXAMPLE}"


def _has_archives(root: Path) -> bool:
    return any(path.suffix.lower() in _ARCHIVES for path in root.rglob("*"))


def _advice(root: Path, others: list[str]) -> str:
    table = next((path for path in sorted(root.iterdir()) if path.suffix.lower() in _TABLES), None)
    if others:
        name = CONVERSATIONS if others[0].lower().endswith(".jsonl") else _ARRAY
        return f": rename one of its {len(others)} JSON files, such as {others[0]}, to {name}"
    if table is None and _has_archives(root):
        table = root
    if table is not None:
        return f": create it with `{conversion(table)}`; a valid line is {EXAMPLE}"
    return f" and no {_ARRAY}: write one line for each sample, such as {EXAMPLE}"


def read_rows(path: Path) -> Rows:
    """Read the rows of a JSON Lines file or of a JSON array, which are distinguished by content.

    Raises:
        DatasetError: The file cannot be read, is one JSON object, or is an invalid array.
    """
    lines = _Lines(path)
    whole = _whole_value(lines)
    if isinstance(whole, list):
        return Rows(path=path, unit="entry", rows=tuple(enumerate(whole, start=1)))
    if isinstance(whole, dict):
        raise DatasetError(f"{path} is a single JSON object: put the samples into an array, [{EXAMPLE}, …]")
    return Rows(path=path, unit="line", rows=lines)


@dataclass(frozen=True)
class _Lines:
    """Lines of a file that are not blank, with their numbers, one at a time."""

    path: Path

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        """Yield each number with its line."""
        with _naming(self.path), self.path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                text = line.removeprefix(_BYTE_ORDER_MARK) if number == 1 else line
                if text and not text.isspace():
                    yield number, text.removesuffix(b"\n")


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror or error}") from None


def _whole_value(lines: _Lines) -> Any:
    """Parse a file as one JSON array, or as one object of several lines; None if it is neither."""
    _, first = next(iter(lines), (0, b""))
    opening = first.lstrip()[:1]
    # Of two values, such as those of JSON Lines, the first alone is JSON.
    if opening not in (b"[", b"{") or (opening == b"{" and _is_json(first)):
        return None
    with _naming(lines.path):
        content = lines.path.read_bytes().removeprefix(_BYTE_ORDER_MARK)
    try:
        return json.loads(content.decode("utf-8"), object_pairs_hook=unique_object)
    except (ValueError, RecursionError) as error:
        if opening == b"[" and (lines.path.suffix.lower() == ".json" or not _is_json(first)):
            raise DatasetError(f"{lines.path} is not a valid JSON array: {error}") from None
        return None


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True
