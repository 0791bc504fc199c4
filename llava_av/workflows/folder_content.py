"""Content of a checked folder or prefix as its commit would have it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from llava_av.datasets.blob_sources import (
    MediaSources,
    folder_sources,
    require_free_names,
    stored_path,
)
from llava_av.datasets.committing import omissions
from llava_av.datasets.extraction import left_out_before
from llava_av.datasets.file_cache import FileCache
from llava_av.datasets.folder_files import FolderFiles
from llava_av.datasets.folder_stamp import KnownFolder
from llava_av.datasets.manifest import LeftOut, safe_path
from llava_av.datasets.reading import ContentReader, content_of
from llava_av.datasets.sources.folder import FolderScan
from llava_av.datasets.sources.remote import RemoteFolder

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from llava_av.datasets.sources.row_table import SampleRows, Uses

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
    from llava_av.datasets.sources.file_rows import FileRows
    from llava_av.datasets.split import SplitColumns, held_out_samples

    rows, files, uses = scan.rows, scan.files, scan.rows.uses()
    files.names.release_index()
    contents, digests = files.contents(uses.names)
    columns = SplitColumns(
        id=rows.id,
        sides=rows.splits,
        samples=uses.rows[:0] if allow_shared_media else uses.rows,
        contents=contents[:0] if allow_shared_media else contents,
        digests=digests,
        path=lambda use: files.names[uses.names[use]],
    )
    held_out = held_out_samples(columns, shares.held_out_share)
    splits = {"train": rows.where(~held_out), "held_out": rows.where(held_out)}
    names = _stored_names(rows, uses, splits)
    listings = {split: own.listing() for split, own in splits.items()}
    return content_of(listings, FileRows(files, names), omissions(left_out_now(folder, scan)))


def _stored_names(rows: SampleRows, uses: Uses, splits: Iterable[str]) -> npt.NDArray[np.int32]:
    """Return the numbers of the paths that samples name, each once.

    Raises:
        CommitError: A path is not allowed.
    """
    import numpy as np

    names, firsts = np.unique(uses.names, return_index=True)
    paths = partial(rows.table.names.each, names)
    try:
        require_free_names(map(safe_path, paths()), splits)
    except ValueError:
        # The message names the sample; usually, no ID is read.
        require_free_names(map(stored_path, rows.ids(uses.rows[firsts]), paths()), splits)
    return names


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
