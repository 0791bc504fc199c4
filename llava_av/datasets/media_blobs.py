"""Media files of a commit, read from the store wherever they are: as blobs of their own, or in packs.

Files of one pack that are close to each other are read by one request, so a whole commit reads whole packs,
and a few files read little more than themselves. Every file is compared with its digest.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, groupby
from pathlib import Path

from llava_av.datasets.manifest import CommitError, blob_key, sha256_hex
from llava_av.datasets.placements import Place
from llava_av.datasets.ranges import FileRow
from llava_av.datasets.reading import ContentReader
from llava_av.datasets.uploads import naming
from llava_av.processes.progress import ProgressCallback
from llava_av.storage import ObjectMissing, ObjectStore, map_parallel

__all__ = ["PackSpan", "download_files", "find_places", "read_span", "spans_of"]

_ADVICE = "run `llava-av data verify` with --repair and a folder that has an intact copy"
_GAP_BYTES = 128 << 10
# The entity tag of a pack does not show whether a part of it was damaged in transit.
_ATTEMPTS = 3


@dataclass(frozen=True, kw_only=True)
class PackSpan:
    """Files of one pack that are read by one request."""

    pack: str
    """Digest of the pack."""
    offset: int
    """First byte of the first file."""
    length: int
    """Bytes to the end of the last file."""
    rows: tuple[tuple[FileRow, int], ...]
    """The files, each with its first byte in the pack."""


def find_places(reader: ContentReader, rows: Iterable[FileRow]) -> dict[str, Place]:
    """Return the places of those files of a commit that are in packs, by their digest."""
    rows = list(rows)
    found: dict[str, Place] = {}
    for places in map_parallel(reader.places, reader.files.ranges_with(row.path for row in rows)):
        found.update(places)
    return {row.sha256: found[row.sha256] for row in rows if row.sha256 in found}


def spans_of(rows: Iterable[FileRow], places: Mapping[str, Place]) -> Iterator[PackSpan]:
    """Yield the spans of the files that have a place, pack by pack."""
    packed = sorted(
        ((*places[row.sha256], row) for row in rows if row.sha256 in places), key=lambda one: one[:2]
    )
    for pack, files in groupby(packed, key=lambda one: one[0]):
        own: list[tuple[FileRow, int]] = []
        end = 0
        for _, offset, row in files:
            if own and offset > end + _GAP_BYTES:
                yield _span(pack, own)
                own = []
            own.append((row, offset))
            end = max(end, offset + row.bytes)
        yield _span(pack, own)


def _span(pack: str, rows: Sequence[tuple[FileRow, int]]) -> PackSpan:
    first, end = rows[0][1], max(offset + row.bytes for row, offset in rows)
    return PackSpan(pack=pack, offset=first, length=end - first, rows=tuple(rows))


def read_span(store: ObjectStore, span: PackSpan) -> Iterator[tuple[FileRow, bytes | None]]:
    """Read a span and yield its files with their content; None for a file that is damaged.

    Raises:
        ObjectMissing: The pack does not exist.
        StoreError: The object store cannot be used.
    """
    key = blob_key(span.pack)
    content = store.get_range(key, span.offset, span.length)
    for row, offset in span.rows:
        start = offset - span.offset
        part = content[start : start + row.bytes]
        yield row, part if sha256_hex(part) == row.sha256 else _read_again(store, key, offset, row)


def _read_again(store: ObjectStore, key: str, offset: int, row: FileRow) -> bytes | None:
    """Read a file again that may have been damaged in transit; return None if it stays damaged."""
    for _ in range(_ATTEMPTS):
        content = store.get_range(key, offset, row.bytes)
        if sha256_hex(content) == row.sha256:
            return content
    return None


def download_files(
    store: ObjectStore,
    rows: Sequence[FileRow],
    places: Mapping[str, Place],
    folder: Path,
    *,
    on_file: Callable[[FileRow], None] | None = None,
    progress: ProgressCallback | None = None,
) -> None:
    """Download media files to their paths in a folder that no other process reads.

    Args:
        store: Store of the commit.
        rows: The files.
        places: Places of those that are in packs, by their digest.
        folder: Folder to write to.
        on_file: Called in a thread with each file that is complete.
        progress: Called with the number of files downloaded and of all.

    Raises:
        CommitError: A file is lost or damaged.
        StoreError: The object store or the local disk cannot be used.
    """
    target = _Target(store, folder, on_file)
    spans = list(spans_of(rows, places))
    alone = [row for row in rows if row.sha256 not in places]
    tasks = [partial(target.write_span, one) for one in spans] + [partial(target.write, row) for row in alone]
    # Spans have nearly the same size, so their order does not matter.
    counts = list(accumulate([*(len(one.rows) for one in spans), *(1 for _ in alone)]))
    map_parallel(
        lambda task: task(),
        tasks,
        on_done=None if progress is None else lambda done: progress(counts[done - 1], len(rows)),
    )


class _Target:
    """Folder of downloaded files; methods may be called from any thread."""

    def __init__(self, store: ObjectStore, folder: Path, on_file: Callable[[FileRow], None] | None) -> None:
        self._store, self._folder, self._on_file = store, folder, on_file
        self._made: set[Path] = set()

    def write(self, row: FileRow) -> None:
        """Write a file that is a blob of its own."""
        key, path = blob_key(row.sha256), self._folder / row.path
        with self._naming_lost(row, key):
            digest = self._store.get_file(key, path, sha256=row.sha256)
        if digest != row.sha256:
            path.unlink()
            raise self._damaged(row, key)
        self._finish(row)

    def write_span(self, span: PackSpan) -> None:
        """Write files of a pack."""
        key = blob_key(span.pack)
        with self._naming_lost(span.rows[0][0], key):
            for row, content in read_span(self._store, span):
                if content is None:
                    raise self._damaged(row, key)
                path = self._folder / row.path
                if path.parent not in self._made:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    self._made.add(path.parent)
                path.write_bytes(content)
                self._finish(row)

    def _finish(self, row: FileRow) -> None:
        if self._on_file is not None:
            self._on_file(row)

    @contextlib.contextmanager
    def _naming_lost(self, row: FileRow, key: str) -> Iterator[None]:
        try:
            with naming(row.path):
                yield
        except ObjectMissing as error:
            raise CommitError(
                f"{row.path} is lost: {self._store.uri(key)} does not exist at {self._store.endpoint}; "
                f"{_ADVICE}"
            ) from error

    def _damaged(self, row: FileRow, key: str) -> CommitError:
        return CommitError(
            f"{row.path} is damaged: {self._store.uri(key)} does not have the digest in its name; {_ADVICE}"
        )
