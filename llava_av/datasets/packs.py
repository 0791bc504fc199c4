"""Packs: blobs that hold the contents of many small media files, one after the other.

Sending a small file costs one request, whatever its size. If a commit adds many small files, they are
therefore sent together: a pack takes one request, and its files are compared with their digests when they are
joined. Few files are sent one by one, so that other datasets can use their blobs.
"""

import threading
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice

from llava_av.datasets.blob_sources import MediaSources, Source, sample_range_sources
from llava_av.datasets.file_cache import FileCache
from llava_av.datasets.manifest import FileEntry, sha256_hex
from llava_av.datasets.placements import LARGEST_PACKED, Place
from llava_av.datasets.reading import ContentReader
from llava_av.datasets.stored_blobs import StoredBlobs
from llava_av.datasets.uploads import NewFiles, Uploader, upload_missing
from llava_av.processes.ordered_calls import ordered_calls
from llava_av.processes.progress import ProgressCallback
from llava_av.storage import ObjectStore, map_parallel

__all__ = ["upload_content"]

_PACK_BYTES = 4 << 20
_FEWEST = 8
"""Smallest number of small files that are packed."""
_AT_ONCE = 8192
"""Files that are prepared at the same time."""


def upload_content(
    store: ObjectStore,
    content: ContentReader,
    newest: ContentReader | None,
    media: MediaSources,
    stored: StoredBlobs,
    cache: FileCache,
    progress: ProgressCallback | None = None,
) -> Sequence[int]:
    """Write the samples and media that the newest commit does not have, small media files in packs.

    Args:
        store: Store to write to.
        content: Content to commit.
        newest: Newest commit; None if there is none.
        media: Returns the media files of `content`.
        stored: Media of the newest commit; the places of packed files are added.
        cache: Cache of entity tags and verified blobs.
        progress: Called with the number of files written and of files to write.

    Returns:
        The sizes of the files that were sent.
    """
    ranges, files = sample_range_sources(content, newest), NewFiles(content, newest, stored)
    report = _Progress(progress, len(ranges) + len(files))
    sent = array("q", upload_missing(store, ranges, cache, report.alone))
    report.advance(len(ranges))
    small = (row for row in files if 0 < row.bytes <= LARGEST_PACKED)
    are_many = len(list(islice(small, _FEWEST))) == _FEWEST
    for packs, alone in _parts(media(files), pack=are_many):
        upload = partial(_upload, Uploader(store, cache), threading.Lock())
        uploads = map_parallel(upload, packs, on_done=report.packs(packs))
        for sizes, places in uploads:
            sent.extend(sizes)
            stored.places.add(places)
        report.advance(sum(map(len, packs)))
        sent.extend(upload_missing(store, alone, cache, report.alone))
        report.advance(len(alone))
    return sent


def _parts(sources: Iterable[Source], *, pack: bool) -> Iterator[tuple[list[list[Source]], list[Source]]]:
    """Yield some packs and other files at a time; `pack` is False if no file belongs in a pack."""
    packs: list[list[Source]] = []
    alone: list[Source] = []
    size, count = 0, 0
    for source in sources:
        own = source.entry.bytes
        is_small = pack and source.local is not None and 0 < own <= LARGEST_PACKED
        if is_small and packs and size + own <= _PACK_BYTES:
            packs[-1].append(source)
            size += own
        else:
            if count >= _AT_ONCE:
                yield packs, alone
                packs, alone, count = [], [], 0
            if is_small:
                packs.append([source])
                size = own
            else:
                alone.append(source)
        count += 1
    yield packs, alone


def _upload(
    uploader: Uploader, joining: threading.Lock, pack: Sequence[Source]
) -> tuple[list[int], dict[str, Place]]:
    """Write a pack, and return the sizes of the files that were sent and the places of all."""
    with joining:
        # One pack at a time: joining makes many short calls, which threads slow down (`ordered_calls`).
        content = b"".join(ordered_calls(Source.compared, pack))
    digest = sha256_hex(content)
    entry = FileEntry(sha256=digest, bytes=len(content))
    joined = Source(path=pack[0].path, entry=entry, content=lambda: content, is_compared=True)
    is_new = uploader.upload(joined) is not None
    places, offset = {}, 0
    for source in pack:
        places[source.entry.sha256] = Place(digest, offset)
        offset += source.entry.bytes
    return [source.entry.bytes for source in pack] if is_new else [], places


class _Progress:
    """Progress of packs and of the other files."""

    def __init__(self, progress: ProgressCallback | None, total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0

    def advance(self, files: int) -> None:
        """Count files whose progress was reported."""
        self._done += files

    def packs(self, packs: Sequence[Sequence[Source]]) -> Callable[[int], None]:
        """Return the function that reports a number of packs, all of which have nearly the same size."""
        sizes = list(map(len, packs))
        return lambda done: self._report(sum(sizes[:done]))

    def alone(self, done: int, total: int) -> None:
        """Report a number of files that are not in packs."""
        self._report(done)

    def _report(self, done: int) -> None:
        if self._progress is not None:
            self._progress(self._done + done, self._total)
