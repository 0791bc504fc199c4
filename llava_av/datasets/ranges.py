"""Ranges of rows: media files sorted by path, or the samples of a split sorted by ID.

A row starts a new range if the hash of its key is divisible by the mean number of rows. The boundaries
therefore depend on the keys alone: a row that is added, removed or changed changes its own range, or divides
or joins two, and all other ranges keep their content and their digest.

The content of a range of files is canonical JSON with one list for each column; that of a range of samples is
canonical JSON Lines. It is stored without compression, because its digest, on which the ID of a commit
depends, must not depend on the version of a library.
"""

import functools
import hashlib
import json
import operator
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

from llava_av.datasets.manifest import FileRange, Range, SampleRange, safe_path, sha256_hex
from llava_av.datasets.schema import Sample

__all__ = [
    "FileRow",
    "Listing",
    "SampleLine",
    "cut_files",
    "cut_samples",
    "files_content",
    "files_in_memory",
    "parse_files",
    "parse_samples",
    "sample_line",
    "sample_range",
    "samples_content",
    "samples_in_memory",
    "starts_range",
    "stored_line",
]

_FILES, _SAMPLES = 2048, 1024
"""Mean number of rows of a range: about 200 KB of files."""
_DIGESTS = re.compile(r"[0-9a-f]{64}( [0-9a-f]{64})*")

_Row = TypeVar("_Row")
_Range = TypeVar("_Range", bound=Range)


class SampleLine(NamedTuple):
    """ID and kind of a sample, and its canonical JSON line without the newline."""

    id: str
    kind: str
    text: bytes


class FileRow(NamedTuple):
    """Path, digest and size of a media file."""

    path: str
    sha256: str
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Listing(Generic[_Range, _Row]):
    """Sorted rows that are loaded range by range."""

    ranges: tuple[_Range, ...]
    load: Callable[[_Range], Sequence[_Row]]
    """Return the rows of a range."""
    content: Callable[[_Range], bytes] | None = None
    """Return the content of a range; None if the rows are not stored in ranges."""

    def __iter__(self) -> Iterator[_Row]:
        """Yield all rows."""
        for one in self.ranges:
            yield from self.load(one)

    @property
    def digests(self) -> frozenset[str]:
        """Return the digests of the ranges."""
        return frozenset(one.sha256 for one in self.ranges)

    def ranges_with(self, keys: Iterable[str]) -> list[_Range]:
        """Return the ranges that contain keys of rows, each range once and in order."""
        firsts = [one.first for one in self.ranges]
        positions = {bisect_right(firsts, key) - 1 for key in keys}
        return [self.ranges[position] for position in sorted(positions) if position >= 0]

    def except_for(self, digests: frozenset[str]) -> Iterator[_Row]:
        """Yield the rows of the ranges whose digest is not in a set."""
        for one in self.ranges:
            if one.sha256 not in digests:
                yield from self.load(one)


def cut_files(rows: Iterable[FileRow]) -> Iterator[tuple[FileRange, bytes]]:
    """Yield the ranges of files, sorted by path, and the content of each."""
    for part in _parts(rows, lambda row: row.path, _FILES):
        content = files_content(part)
        yield (
            FileRange(
                first=part[0].path,
                rows=len(part),
                sha256=sha256_hex(content),
                size=len(content),
                bytes=sum(row.bytes for row in part),
            ),
            content,
        )


def cut_samples(lines: Iterable[SampleLine]) -> Iterator[tuple[SampleRange, bytes]]:
    """Yield the ranges of samples, sorted by ID, and the content of each."""
    for part in _parts(lines, lambda line: line.id, _SAMPLES):
        content = samples_content(part)
        yield sample_range(part[0].id, len(part), Counter(line.kind for line in part), content), content


def _parts(rows: Iterable[_Row], key: Callable[[_Row], str], mean: int) -> Iterator[list[_Row]]:
    part: list[_Row] = []
    for row in rows:
        if part and _starts(key(row), mean):
            yield part
            part = []
        part.append(row)
    if part:
        yield part


def starts_range(sample: str) -> bool:
    """Check whether a sample with an ID starts a new range."""
    return _starts(sample, _SAMPLES)


def _starts(key: str, mean: int) -> bool:
    digest = hashlib.sha256(key.encode()).digest()
    # The second condition decides; the mean is a multiple of 256.
    return not digest[3] and int.from_bytes(digest[:4]) % mean == 0


def sample_range(first: str, rows: int, kinds: Mapping[str, int], content: bytes) -> SampleRange:
    """Return the range of samples with some content.

    Args:
        first: ID of the first sample.
        rows: Number of samples.
        kinds: Number of samples of each kind.
        content: As `samples_content` returns it.
    """
    return SampleRange(
        first=first,
        rows=rows,
        sha256=sha256_hex(content),
        size=len(content),
        kinds=dict(sorted(kinds.items())),
    )


def files_in_memory(rows: Sequence[FileRow]) -> Listing[FileRange, FileRow]:
    """Return the listing of files that are sorted by path."""
    ranges = tuple(found for found, _ in cut_files(rows))
    parts = _slices(ranges)

    # The steps of a commit load the same few ranges, whose rows may be computed.
    @functools.lru_cache(maxsize=1)
    def load(first: str) -> Sequence[FileRow]:
        return rows[parts[first]]

    return Listing(ranges=ranges, load=lambda one: load(one.first))


def samples_in_memory(lines: Sequence[SampleLine]) -> Listing[SampleRange, SampleLine]:
    """Return the listing of samples that are sorted by ID."""
    ranges = tuple(found for found, _ in cut_samples(lines))
    parts = _slices(ranges)
    return Listing(ranges=ranges, load=lambda one: lines[parts[one.first]])


def _slices(ranges: Iterable[Range]) -> dict[str, slice]:
    """Return the positions of the rows of each range by its first key."""
    parts, start = {}, 0
    for one in ranges:
        parts[one.first] = slice(start, start + one.rows)
        start += one.rows
    return parts


def files_content(rows: Iterable[FileRow]) -> bytes:
    """Return the content of a range of files."""
    paths, digests, sizes = zip(*rows, strict=True)
    columns = {"bytes": sizes, "path": paths, "sha256": digests}
    return json.dumps(columns, ensure_ascii=False, separators=(",", ":")).encode()


def samples_content(lines: Iterable[SampleLine]) -> bytes:
    """Return the content of a range of samples."""
    return b"".join(b"%s\n" % line.text for line in lines)


def parse_files(one: FileRange, content: bytes) -> list[FileRow]:
    """Return the rows of a range of files from its content.

    Raises:
        ValueError: The content is not that of the range, or a path leaves its folder.
    """
    columns = json.loads(content)
    rows = list(map(FileRow, columns["path"], columns["sha256"], columns["bytes"]))
    _require_rows(one, rows, [row.path for row in rows])
    if not _DIGESTS.fullmatch(" ".join(columns["sha256"])):
        raise ValueError("a digest does not have 64 hexadecimal digits")
    for path in columns["path"]:
        if safe_path(path) != path:
            raise ValueError(f"{path!r} is not a plain relative path")
    return rows


def sample_line(sample: Sample) -> SampleLine:
    """Return the row of a sample."""
    return SampleLine(sample.id, sample.kind, sample.to_json_line().encode())


def stored_line(text: bytes) -> SampleLine:
    """Return the row of a sample from its line.

    Raises:
        ValueError: It is not the line of a sample.
    """
    data = json.loads(text)
    try:
        return SampleLine(data["id"], data.get("kind", "all"), text)
    except (KeyError, TypeError) as error:
        raise ValueError("a line is not a sample") from error


def parse_samples(one: SampleRange, content: bytes) -> list[SampleLine]:
    """Return the rows of a range of samples from its content; errors as for `parse_files`."""
    lines = list(map(stored_line, content.splitlines()))
    _require_rows(one, lines, [line.id for line in lines])
    return lines


def _require_rows(one: Range, rows: Sequence[object], keys: Sequence[str]) -> None:
    if len(rows) != one.rows or keys[0] != one.first or any(map(operator.ge, keys, keys[1:])):
        raise ValueError(f"it does not have {one.rows} sorted rows from {one.first!r}")
