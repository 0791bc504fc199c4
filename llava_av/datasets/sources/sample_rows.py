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
from llava_av.datasets.ranges import SampleLine
from llava_av.datasets.schema import Sample, SampleError, Split, parse_stored
from llava_av.datasets.sources.rows import Rows
from llava_av.datasets.sources.sample_checks import names_choice

__all__ = ["SampleRow", "sample_rows"]

_MEAN_ROWS, _MOST_ROWS = 64, 1024

_Block = list[tuple[int, Any]]


class SampleRow(NamedTuple):
    """A usable sample, as far as a commit needs it."""

    id: str
    kind: str
    text: bytes
    """Canonical JSON line without the key `split`."""
    split: Split | None
    """Split that the sample states."""
    image: tuple[str, ...]
    video: tuple[str, ...]
    audio: tuple[str, ...]
    use_audio: bool
    names_choice: bool
    """False if the last answer contains none of the choices."""

    @classmethod
    def of(cls, sample: Sample) -> "SampleRow":
        """Return the row of a sample."""
        plain = sample if sample.split is None else sample.model_copy(update={"split": None})
        media = sample.image, sample.video, sample.audio
        text = plain.to_json_line().encode()
        return cls(sample.id, sample.kind, text, sample.split, *media, sample.use_audio, names_choice(sample))

    @property
    def media(self) -> tuple[str, ...]:
        """Return the paths of all media: images, videos, audio files."""
        return self.image + self.video + self.audio

    @property
    def uses(self) -> list[tuple[str, str]]:
        """Return path and role of every file."""
        own = ("image", self.image), ("video", self.video), ("audio", self.audio)
        return [(name, role) for role, names in own for name in names]

    def line(self) -> SampleLine:
        """Return the row of a commit."""
        return SampleLine(self.id, self.kind, self.text)

    def sample(self) -> Sample:
        """Return the sample."""
        return parse_stored(self.text, 1).model_copy(update={"split": self.split})


def sample_rows(rows: Rows, cache: FileCache | None = None) -> Iterator[tuple[int, SampleRow | SampleError]]:
    """Yield the number of each row with its checked row, or with the reason why it cannot be used.

    Args:
        rows: Rows of a folder.
        cache: Cache of checked rows; None checks all.
    """
    for block in _blocks(rows):
        key = _digest(rows, block)
        found = None if cache is None else _parsed(cache.checked_rows(key), len(block))
        if found is not None:
            yield from zip((number for number, _ in block), found, strict=True)
            continue
        checked = [(number, _checked(rows, number, row)) for number, row in block]
        good = [row for _, row in checked if isinstance(row, SampleRow)]
        if cache is not None and len(good) == len(checked):
            cache.remember_rows(key, _text(good))
        yield from checked


def _blocks(rows: Rows) -> Iterator[_Block]:
    block: _Block = []
    for number, row in rows.rows:
        block.append((number, row))
        if zlib.crc32(_raw(row)) % _MEAN_ROWS == 0 or len(block) == _MOST_ROWS:
            yield block
            block = []
    if block:
        yield block


def _raw(row: Any) -> bytes:
    """Return the text of a row; that of an array's entry is written again."""
    return row if isinstance(row, bytes) else json.dumps(row).encode()


def _digest(rows: Rows, block: _Block) -> str:
    text = b"\n".join([rows.unit.encode(), *(_raw(row) for _, row in block)])
    return hashlib.sha256(text).hexdigest()


def _checked(rows: Rows, number: int, row: Any) -> SampleRow | SampleError:
    try:
        return SampleRow.of(rows.parse(number, row))
    except SampleError as error:
        return error


def _text(rows: Sequence[SampleRow]) -> str:
    return json.dumps([row._replace(text=row.text.decode()) for row in rows])  # type: ignore[arg-type]


def _parsed(text: str | None, count: int) -> list[SampleRow] | None:
    """Return rows of the cache; None if there are none that this version can read."""
    with contextlib.suppress(TypeError, ValueError):
        rows = [
            SampleRow(name, kind, line.encode(), split, tuple(image), tuple(video), tuple(audio), *rest)
            for name, kind, line, split, image, video, audio, *rest in json.loads(text or "")
        ]
        return rows if len(rows) == count else None
    return None
