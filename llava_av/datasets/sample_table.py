"""Samples of a split on the local disk: one copy on each node, which its processes map into memory.

<commit>-<split>/lines              lines of the samples, as the commit stores them
<commit>-<split>/ends.npy           end of each line
<commit>-<split>/media.npy          number of each sample's media, in the order of the first sample about them
<commit>-<split>/kinds.npy, kinds   number of each sample's kind, and the kinds by their number

One process writes a table, from the ranges of the commit, and the others wait for it. A sample is parsed when
it is read, so memory and start hardly depend on the number of samples.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import time
import uuid
from array import array
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from llava_av.datasets.commits import Commit
from llava_av.datasets.manifest import SampleRange
from llava_av.datasets.ranges import samples_content
from llava_av.datasets.reading import Samples
from llava_av.datasets.sample_columns import LazySamples, NamedColumn, SampleColumns
from llava_av.datasets.schema import Sample, parse_stored
from llava_av.files import file_lock, write_array
from llava_av.storage import ObjectStore
from llava_av.storage.store_errors import local_files
from llava_av.storage.transfer import WORKERS

__all__ = ["SampleTable", "sample_table"]

_PARSED_KEPT = 4096
_UNUSED_S = 7 * 24 * 3600.0
_RANGES_AHEAD = 64
_DEFAULT_KIND = b"all"
# Canonical JSON sorts its keys, and a quote inside of text is escaped.
_TEXT = rb'[^"\\\n]*+(?:\\.[^"\\\n]*+)*+'
_LIST = rb'\["%b"(?:,"%b")*+\]' % (_TEXT, _TEXT)
_LINE = re.compile(
    rb'^\{(?:"audio":(%b),)?(?="c)[^\n]*\],"id":("%b")(?:,"image":(%b))?(?:,"kind":"(%b)")?'
    rb'(?:,"split":"[a-z_]+")?(?:,"use_audio":false)?(?:,"video":(%b))?\}$'
    % (_LIST, _TEXT, _LIST, _TEXT, _LIST),
    re.MULTILINE,
)


class SampleTable(LazySamples):
    """Samples of a table, or some of them.

    Args:
        folder: Folder of the table.
        chosen: Places of the samples; None for all.
    """

    def __init__(self, folder: Path, chosen: npt.NDArray[np.int64] | None = None) -> None:
        self._folder, self._chosen = folder, chosen
        self._ends = np.load(folder / "ends.npy", mmap_mode="r")
        self._lines = np.memmap(folder / "lines", np.uint8, "r")
        media, kinds = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("media", "kinds"))
        names = tuple(json.loads((folder / "kinds").read_text(encoding="utf-8")))
        self.columns = SampleColumns(
            media=media, kinds=NamedColumn(names, kinds), datasets=NamedColumn(("",), np.zeros_like(kinds))
        )
        """Properties that the order of the samples depends on."""
        if chosen is not None:
            self.columns = self.columns.of_rows(chosen)
        self._parsed = lru_cache(_PARSED_KEPT)(self._parse)

    def select(self, places: npt.NDArray[np.int64]) -> SampleTable:
        """Return some of the samples."""
        return SampleTable(self._folder, places if self._chosen is None else self._chosen[places])

    def __len__(self) -> int:
        return len(self._ends if self._chosen is None else self._chosen)

    def at(self, place: int) -> Sample:
        """Return the sample at a place, which exists."""
        return self._parsed(place if self._chosen is None else int(self._chosen[place]))

    def _parse(self, row: int) -> Sample:
        start = int(self._ends[row - 1]) if row else 0
        return parse_stored(self._lines[start : int(self._ends[row])].tobytes(), row + 1)


def sample_table(store: ObjectStore, commit: Commit, split: str, folder: Path) -> SampleTable:
    """Return the samples of a split of a commit; the first process of the node writes their table.

    Args:
        store: Store of the commit.
        commit: The commit.
        split: One of its splits, which has a sample.
        folder: Local folder for tables, which the processes of a node share.

    Raises:
        CommitError: A range of samples is lost or damaged.
        StoreError: The object store or the local disk cannot be used.
    """
    table = folder / f"{commit.id[:16]}-{split}"
    with local_files(table), contextlib.ExitStack() as stack:
        folder.mkdir(parents=True, exist_ok=True)
        stack.enter_context(file_lock(folder / ".lock"))
        if not table.exists():
            _delete_unused(folder)
            part = folder / f".{uuid.uuid4().hex}"
            part.mkdir()
            try:
                _write(part, commit.reader(store).samples(split))
                part.rename(table)
            finally:
                shutil.rmtree(part, ignore_errors=True)
        os.utime(table)
        return SampleTable(table)


def _delete_unused(folder: Path) -> None:
    """Delete what killed processes left, and tables that no process has opened for a week."""
    for path in folder.iterdir():
        is_part = path.name.startswith(".") and path.is_dir()
        if is_part or time.time() - path.stat().st_mtime > _UNUSED_S:
            shutil.rmtree(path, ignore_errors=True)


def _write(folder: Path, samples: Samples) -> None:
    ends: list[npt.NDArray[np.int64]] = []
    media, kinds = _Numbers(), _Numbers()
    written = 0
    with (folder / "lines").open("wb") as lines:
        for content in _contents(samples):
            lines.write(content)
            ends.append(np.flatnonzero(np.frombuffer(content, np.uint8) == ord("\n")) + written + 1)
            written += len(content)
            keys, names = _keys(content, len(ends[-1]))
            media.extend(keys)
            kinds.extend(names)
        _flush(lines)
    for name, column in (("ends", np.concatenate(ends)), ("media", media.column), ("kinds", kinds.column)):
        with (folder / f"{name}.npy").open("wb") as file:
            write_array(file, column)
            _flush(file)
    with (folder / "kinds").open("w", encoding="utf-8") as file:
        json.dump([json.loads(b'"%s"' % kind) for kind in kinds.numbers], file)
        _flush(file)


def _flush(file: Any) -> None:
    # The table must not appear before its content if the node crashes.
    file.flush()
    os.fsync(file.fileno())


def _contents(samples: Samples) -> Iterator[bytes]:
    """Yield the lines of each range; threads read the next ones."""

    def read(one: SampleRange) -> bytes:
        return samples_content(samples.load(one)) if samples.content is None else samples.content(one)

    ranges = iter(samples.ranges)
    with ThreadPoolExecutor(WORKERS, thread_name_prefix="samples") as pool:
        ahead = deque(pool.submit(read, one) for one in islice(ranges, _RANGES_AHEAD))
        while ahead:
            content = ahead.popleft().result()
            ahead.extend(pool.submit(read, one) for one in islice(ranges, 1))
            yield content


def _keys(content: bytes, rows: int) -> tuple[list[bytes], list[bytes]]:
    """Return for each line a value that is equal for samples about the same media, and the kind."""
    found = _LINE.findall(content)
    if len(found) != rows:
        # The parser is slower; only lines that no version has written need it.
        parsed = list(map(_key, content.splitlines(), range(1, rows + 1)))
        return [key for key, _ in parsed], [kind for _, kind in parsed]
    media = [
        b"%b\n%b\n%b" % (image, video, audio) if video or image or audio else name
        for audio, name, image, _, video in found
    ]
    return media, [one[3] or _DEFAULT_KIND for one in found]


def _key(line: bytes, number: int) -> tuple[bytes, bytes]:
    sample = parse_stored(line, number)
    kind = _json(sample.kind)[1:-1]
    if not sample.has_media:
        return _json(sample.id), kind
    media = (_json(paths) if paths else b"" for paths in (sample.image, sample.video, sample.audio))
    return b"\n".join(media), kind


def _json(value: str | tuple[str, ...]) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


class _Numbers:
    """Numbers of values, in the order in which they appear."""

    def __init__(self) -> None:
        self.numbers: dict[bytes, int] = {}
        self._column = array("q")

    def extend(self, values: Iterable[bytes]) -> None:
        numbers = self.numbers
        self._column.extend([numbers.setdefault(value, len(numbers)) for value in values])

    @property
    def column(self) -> npt.NDArray[np.int64]:
        return np.array(self._column, np.int64)
