"""Content of a checked folder or prefix as its commit would have it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from llava_av.datasets.committing import omissions
from llava_av.datasets.computed import Computed
from llava_av.datasets.extraction import left_out_before
from llava_av.datasets.file_cache import FileCache
from llava_av.datasets.folder_files import FolderFiles
from llava_av.datasets.folder_stamp import KnownFolder
from llava_av.datasets.manifest import LeftOut
from llava_av.datasets.ranges import FileRow
from llava_av.datasets.reading import ContentReader, content_of
from llava_av.datasets.sources.checked_files import CheckedFiles
from llava_av.datasets.sources.folder import FolderScan
from llava_av.datasets.sources.remote import RemoteFolder
from llava_av.datasets.uploads import MediaSources, folder_sources, require_free_names, stored_path

__all__ = ["ChosenShares", "Shares", "checked_sources", "folder_content", "known_folder", "left_out_now"]


class Shares(Protocol):
    """Shares of a folder's samples, from 0 to 1."""

    @property
    def held_out_share(self) -> float:
        """Return the share of samples to hold out for evaluation."""
        ...

    @property
    def max_bad_share(self) -> float:
        """Return the maximum share of unusable samples to accept."""
        ...


@dataclass(frozen=True, kw_only=True)
class ChosenShares:
    """Shares that a user chose; see `Shares`."""

    held_out_share: float
    max_bad_share: float


def known_folder(
    cache: FileCache, folder: Path | RemoteFolder, name: str, shares: Shares, *, allow_shared_media: bool
) -> KnownFolder | None:
    """Return the record of a folder and its last commit; None for a prefix in S3."""
    if isinstance(folder, RemoteFolder):
        return None
    return KnownFolder(cache, FolderFiles(folder), name, shares.held_out_share, allow_shared_media)


def folder_content(
    folder: Path | RemoteFolder, scan: FolderScan, shares: Shares, *, allow_shared_media: bool
) -> ContentReader:
    """Return the content of a commit of a folder.

    Args:
        folder: The folder or prefix.
        scan: Its samples and files.
        shares: Share to hold out.
        allow_shared_media: True if held-out samples may share media with training samples.

    Raises:
        SplitError: Every split has shared media.
        CommitError: A path is not allowed.
    """
    # numpy takes a tenth of a second to load, and an unchanged folder does not need it.
    from llava_av.datasets.split import SplitColumns, content_digests, held_out_samples

    rows, table, digests = scan.rows, scan.rows.table, scan.files.digests
    columns = SplitColumns(
        id=rows.id,
        sides=rows.splits,
        media=rows.media,
        digests=Computed(
            len(table.names),
            lambda media: () if allow_shared_media else content_digests(table.names[media], digests),
        ),
        paths=table.names,
    )
    held_out = held_out_samples(columns, shares.held_out_share)
    splits = {"train": rows.where(~held_out), "held_out": rows.where(held_out)}
    names = _names(scan)
    require_free_names(names.keys(), splits)
    listings = {split: own.listing() for split, own in splits.items()}
    return content_of(listings, _rows(scan.files, names), omissions(left_out_now(folder, scan)))


def _rows(files: CheckedFiles, names: dict[str, str]) -> Sequence[FileRow]:
    """Return the rows of files, sorted by path; `names` has their names in the folder by path."""
    paths = sorted(names)
    own = [names[path] for path in paths]

    def row(place: int) -> FileRow:
        file = files[own[place]]
        return FileRow(paths[place], file.sha256, file.bytes)

    return Computed(len(paths), row)


def _names(scan: FolderScan) -> dict[str, str]:
    """Return the names of the files that samples name, by their paths in the commit."""
    found: dict[str, str] = {}
    rows, names = scan.rows, scan.rows.table.names
    for media, place in zip(*rows.first_places(), strict=True):
        for name in names[media]:
            found[stored_path(rows.id(place), name)] = name
    return found


def left_out_now(folder: Path | RemoteFolder, scan: FolderScan) -> Sequence[LeftOut]:
    """Return the omissions; a copy of a commit lacks them, but has the same content."""
    if scan.quarantined or isinstance(folder, RemoteFolder):
        return scan.quarantined
    return left_out_before(folder)


def checked_sources(folder: Path | RemoteFolder, cache: FileCache) -> MediaSources:
    """Return the function that returns the sources of a folder's media files, whose content was checked."""
    if isinstance(folder, RemoteFolder):
        return partial(folder.sources, cache)
    return partial(folder_sources, folder, cache)
