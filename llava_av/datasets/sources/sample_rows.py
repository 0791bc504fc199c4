"""Checked rows of a folder: what a commit needs of each usable sample, without the sample itself.

Most rows of a folder are those of its last commit. They are divided into blocks, and the checked rows of a
block without a bad row are kept in the file cache, under the digest of the block's text. A row ends a block
if its checksum is divisible by a constant, so a row that is added, removed or changed affects its own block,
or divides or joins two.
"""

import contextlib
import hashlib
import json
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from llava_av.datasets.file_cache import FileCache
from llava_av.datasets.ranges import starts_range
from llava_av.datasets.schema import Sample, SampleError, Split, parse_stored
from llava_av.datasets.sources.rows import Rows
from llava_av.datasets.sources.sample_checks import names_choice

__all__ = ["ROLES", "RowBlock", "SampleRow", "row_blocks"]

ROLES = ("image", "video", "audio")
"""Roles of media files, in the order in which a sample lists them."""

_MEAN_ROWS, _MOST_ROWS, _READ_BYTES = 64, 1024, 256 * 1024

_Block = list[tuple[int, Any]]


class SampleRow(NamedTuple):
    """A usable sample, as far as a commit needs it."""

    id: str
    kind: str
    text: bytes
    """Canonical JSON line without the key `split`."""
    split: Split | None
    """Split that the sample states."""
    uses: tuple[tuple[str, str], ...]
    """Path and role of every file: images, videos, audio files."""
    use_audio: bool
    names_choice: bool
    """False if the last answer contains none of the choices."""

    @classmethod
    def of(cls, sample: Sample) -> "SampleRow":
        """Return the row of a sample."""
        plain = sample if sample.split is None else sample.model_copy(update={"split": None})
        uses = tuple((name, role) for role in ROLES for name in getattr(sample, role))
        text = plain.to_json_line().encode()
        return cls(sample.id, sample.kind, text, sample.split, uses, sample.use_audio, names_choice(sample))

    @property
    def media(self) -> tuple[str, ...]:
        """Return the paths of all media."""
        return tuple(name for name, _ in self.uses)

    def sample(self) -> Sample:
        """Return the sample."""
        return parse_stored(self.text, 1).model_copy(update={"split": self.split})


class RowBlock(NamedTuple):
    """Usable rows of a block, as columns."""

    ids: list[str]
    kinds: list[str]
    splits: list[Split | None]
    use_audio: list[bool]
    uses: list[int]
    """Number of files that each row names."""
    names: list[str]
    """Paths of these files, row by row."""
    roles: list[int]
    """Places of their roles in `ROLES`."""
    outside: list[int]
    """Places of rows whose last answer contains none of the choices."""
    starts: list[int]
    """Places of rows that start a range of a commit."""
    text: bytes
    """Canonical lines, each with a newline."""

    @classmethod
    def of(cls, rows: Sequence[SampleRow]) -> "RowBlock":
        """Return the block of some rows."""
        return cls(
            ids=[row.id for row in rows],
            kinds=[row.kind for row in rows],
            splits=[row.split for row in rows],
            use_audio=[row.use_audio for row in rows],
            uses=[len(row.uses) for row in rows],
            names=[name for row in rows for name, _ in row.uses],
            roles=[ROLES.index(role) for row in rows for _, role in row.uses],
            outside=[place for place, row in enumerate(rows) if not row.names_choice],
            starts=[place for place, row in enumerate(rows) if starts_range(row.id)],
            text=b"".join(b"%s\n" % row.text for row in rows),
        )

    @classmethod
    def parsed(cls, text: str | None, count: int) -> "RowBlock | None":
        """Return a block from the text that `to_text` returned; None if this version cannot read it."""
        with contextlib.suppress(LookupError, TypeError, ValueError):
            head, _, lines = (text or "").partition("\n")
            block = cls._make([*map(_whole, json.loads(head)), lines.encode()])
            by_row = (block.ids, block.kinds, block.splits, block.use_audio, block.uses)
            has_rows = {*(len(column) for column in by_row), block.text.count(b"\n")} == {count}
            if has_rows and len(block.names) == len(block.roles) == sum(block.uses):
                return block
        return None

    def to_text(self) -> str:
        """Return the block as text."""
        columns: tuple[list[Any], ...] = self[:-1]
        return f"{json.dumps(list(map(_short, columns)))}\n{self.text.decode()}"


def _short(column: list[Any]) -> list[Any]:
    """Return a column as a list of its values, or as the number of values and the one that all have."""
    values = set(column)
    return [len(column), *values] if len(values) == 1 else [column]


def _whole(short: list[Any]) -> list[Any]:
    """Return the column from the list that `_short` returned."""
    return short[0] if len(short) == 1 else [short[1]] * short[0]


def row_blocks(
    rows: Rows, cache: FileCache | None = None
) -> Iterator[tuple[list[int], RowBlock, list[tuple[int, SampleError]]]]:
    """Yield the numbers of usable rows with their block, and the numbers of other rows with the reasons.

    Args:
        rows: Rows of a folder.
        cache: Cache of checked rows; None checks all.
    """
    for blocks in _batches(rows):
        known = {} if cache is None else cache.checked_rows([key for key, _ in blocks])
        for key, block in blocks:
            found = RowBlock.parsed(known.get(key), len(block))
            if found is not None:
                yield [number for number, _ in block], found, []
                continue
            checked = [(number, _checked(rows, number, row)) for number, row in block]
            good = [(number, row) for number, row in checked if isinstance(row, SampleRow)]
            found = RowBlock.of([row for _, row in good])
            if cache is not None and len(good) == len(checked):
                cache.remember_rows(key, found.to_text())
            bad = [(number, error) for number, error in checked if isinstance(error, SampleError)]
            yield [number for number, _ in good], found, bad


def _blocks(rows: Rows) -> Iterator[_Block]:
    block: _Block = []
    is_line = rows.unit == "line"
    for row in rows.rows:
        block.append(row)
        text = row[1] if is_line else _raw(row[1])
        if zlib.crc32(text) % _MEAN_ROWS == 0 or len(block) == _MOST_ROWS:
            yield block
            block = []
    if block:
        yield block


def _batches(rows: Rows) -> Iterator[list[tuple[str, _Block]]]:
    """Yield some blocks at a time, each with the digest of its text."""
    blocks: list[tuple[str, _Block]] = []
    size = 0
    for block in _blocks(rows):
        text = b"\n".join([rows.unit.encode(), *(_raw(row) for _, row in block)])
        blocks.append((hashlib.sha256(text).hexdigest(), block))
        size += len(text)
        if size > _READ_BYTES:
            yield blocks
            blocks, size = [], 0
    if blocks:
        yield blocks


def _raw(row: Any) -> bytes:
    """Return the text of a row; that of an array's entry is written again."""
    return row if isinstance(row, bytes) else json.dumps(row).encode()


def _checked(rows: Rows, number: int, row: Any) -> SampleRow | SampleError:
    try:
        return SampleRow.of(rows.parse(number, row))
    except SampleError as error:
        return error
