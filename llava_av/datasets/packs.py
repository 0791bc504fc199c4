"""Packs: blobs that hold the contents of many small media files, one after the other.

Sending a small file costs one request, whatever its size. If a commit adds many small files, they are
therefore sent together: a pack takes one request, and its files are compared with their digests when they are
joined. Few files are sent one by one, so that many small commits do not leave as many packs.
"""

from collections.abc import Sequence
from functools import partial

from llava_av.datasets.file_cache import FileCache
from llava_av.datasets.manifest import FileEntry, sha256_hex
from llava_av.datasets.placements import LARGEST_PACKED, Place
from llava_av.datasets.reading import ContentReader
from llava_av.datasets.stored_blobs import StoredBlobs
from llava_av.datasets.uploads import MediaSources, Source, Uploader, missing_sources, upload_missing
from llava_av.processes.progress import ProgressCallback
from llava_av.storage import ObjectStore, map_parallel

__all__ = ["upload_content"]

_PACK_BYTES = 4 << 20
_FEWEST = 64
"""Smallest number of small files that are packed."""


def upload_content(
    store: ObjectStore,
    content: ContentReader,
    newest: ContentReader | None,
    media: MediaSources,
    stored: StoredBlobs,
    cache: FileCache,
    progress: ProgressCallback | None = None,
) -> list[int]:
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
    distinct = {each.entry.sha256: each for each in missing_sources(content, newest, media, stored)}
    small = [source for source in distinct.values() if _is_small(source)]
    packs = _packs_of(small) if len(small) >= _FEWEST else []
    sent: list[int] = []
    report = _Progress(progress, len(distinct), packs)
    for sizes, places in map_parallel(partial(_upload, Uploader(store, cache)), packs, on_done=report.packs):
        sent += sizes
        stored.places.update(places)
    alone = [source for digest, source in distinct.items() if digest not in stored.places]
    return sent + upload_missing(store, alone, cache, report.files)


def _is_small(source: Source) -> bool:
    return source.local is not None and 0 < source.entry.bytes <= LARGEST_PACKED


def _packs_of(sources: Sequence[Source]) -> list[list[Source]]:
    packs: list[list[Source]] = []
    size = _PACK_BYTES
    for source in sources:
        if size + source.entry.bytes > _PACK_BYTES:
            packs.append([])
            size = 0
        packs[-1].append(source)
        size += source.entry.bytes
    return packs


def _upload(uploader: Uploader, pack: Sequence[Source]) -> tuple[list[int], dict[str, Place]]:
    """Write a pack, and return the sizes of the files that were sent and the places of all."""
    content = b"".join(source.compared() for source in pack)
    digest = sha256_hex(content)
    joined = Source(
        path=pack[0].path, entry=FileEntry(sha256=digest, bytes=len(content)), content=lambda: content
    )
    is_new = uploader.upload(joined) is not None
    places, offset = {}, 0
    for source in pack:
        places[source.entry.sha256] = Place(digest, offset)
        offset += source.entry.bytes
    return [source.entry.bytes for source in pack] if is_new else [], places


class _Progress:
    """Progress of packs and then of the other files."""

    def __init__(
        self, progress: ProgressCallback | None, total: int, packs: Sequence[Sequence[Source]]
    ) -> None:
        self._progress, self._total = progress, total
        self._sizes = list(map(len, packs))

    def packs(self, done: int) -> None:
        """Report a number of packs, all of which have nearly the same size."""
        self._report(sum(self._sizes[:done]))

    def files(self, done: int, total: int) -> None:
        """Report a number of files that are not in packs."""
        self._report(sum(self._sizes) + done)

    def _report(self, done: int) -> None:
        if self._progress is not None:
            self._progress(done, self._total)
