"""Media blobs that a new commit takes over from the commits that it is based on, and their places in packs.

A blob that the newest commit lists is stored, because its writer has sent it or compared it. Only ranges that
the new commit lacks are read: all files of the other ranges are stored, and so are their placements.
"""

import logging
from functools import partial

from llava_av.datasets.manifest import CommitError, FileRange
from llava_av.datasets.placements import Placement, Places, read_placement, write_placement
from llava_av.datasets.ranges import FileRow
from llava_av.datasets.reading import ContentReader
from llava_av.storage import ObjectStore, map_parallel

__all__ = ["StoredBlobs"]

_LOG = logging.getLogger(__name__)


class StoredBlobs:
    """Media blobs of one dataset that are stored.

    Args:
        store: Store of the dataset.
        name: Name of the dataset.
    """

    def __init__(self, store: ObjectStore, name: str) -> None:
        self._store, self._name = store, name
        self._ranges: set[str] = set()
        self._digests: set[str] = set()
        self.places = Places()
        """Places of files in packs, by their digest; other files are blobs of their own."""

    def __contains__(self, sha256: str) -> bool:
        """Check whether a range that was read lists a digest."""
        return sha256 in self._digests

    def add(self, content: ContentReader, *commits: ContentReader | None) -> None:
        """Add the files of commits, except for those of ranges that `content` has too."""
        own = content.files.digests
        for commit in commits:
            if commit is None:
                continue
            changed = [one for one in commit.files.ranges if one.sha256 not in own]
            for rows, placement in map_parallel(partial(self._read, commit), changed):
                self._digests.update(row.sha256 for row in rows)
                if placement is not None:
                    self.places.add(placement.places)
            if commit.has_blobs:
                self._ranges |= commit.files.digests

    def _read(self, commit: ContentReader, one: FileRange) -> tuple[list[FileRow], Placement | None]:
        try:
            placement = read_placement(self._store, self._name, one) if commit.has_blobs else None
            return list(commit.files.load(one)), placement
        except CommitError as error:
            # Looking for each file costs more requests, but needs no list.
            _LOG.warning("looking for files one by one: %s", error)
            return [], None

    def write_placements(self, content: ContentReader) -> None:
        """Write the placements of the ranges of `content` that no added commit has."""
        new = [one for one in content.files.ranges if one.sha256 not in self._ranges]
        map_parallel(
            lambda one: write_placement(self._store, self._name, one, content.files.load(one), self.places),
            new,
        )
