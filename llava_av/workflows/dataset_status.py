"""Preview of a commit: what would change if a folder were committed now, without uploading anything."""

import functools
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llava_av.datasets.commits import Commit, find_commit
from llava_av.datasets.comparison import (
    ComparedContent,
    ContentChanges,
    compare_contents,
    compared_commit,
    no_changes,
)
from llava_av.datasets.file_cache import FileCache
from llava_av.datasets.manifest import check_name, ref_key
from llava_av.datasets.media_checks import CheckDepth, MediaChecks
from llava_av.datasets.previous_version import name_of_folder
from llava_av.datasets.reading import content_in_memory
from llava_av.datasets.sources.folder import Quarantined, read_folder
from llava_av.processes import progress_reporter
from llava_av.storage import ObjectStore
from llava_av.workflows.folder_content import Shares, folder_content, known_folder

__all__ = ["FolderStatus", "folder_status"]


@dataclass(frozen=True, kw_only=True)
class FolderStatus:
    """Difference between a folder and the newest commit of its dataset."""

    name: str
    """Name of the dataset."""
    newest: Commit | None
    """Newest commit; None if there is none yet."""
    compare: Callable[[], ContentChanges]
    """Returns the differences, which needs the properties of all media."""
    is_same: bool
    """True if samples and files are those of the newest commit."""
    left_out: tuple[Quarantined, ...]
    """Lines and files that a commit would leave out."""
    commits: bool
    """True if a commit of the folder would be a new one."""
    refused: bool
    """True if a commit would be refused because the share of unusable samples exceeds the limit."""
    pending: int
    """Media files that were not decoded at this depth or before."""

    @functools.cached_property
    def changes(self) -> ContentChanges:
        """Differences of samples and files; read when they are first needed."""
        return self.compare()

    def to_json(self) -> dict[str, Any]:
        """Return the status as JSON."""
        return {
            "name": self.name,
            "newest": None if self.newest is None else self.newest.id,
            "commits": self.commits,
            "refused": self.refused,
            "pending": self.pending,
            **asdict(self.changes),
            "left_out": [{"file": bad.file, "reason": bad.reason} for bad in self.left_out],
        }


def folder_status(
    store: ObjectStore,
    folder: Path,
    name: str,
    shares: Shares,
    *,
    allow_shared_media: bool = False,
    depth: CheckDepth = "full",
    again: bool = False,
    cache_file: Path | None = None,
) -> FolderStatus:
    """Check a folder as `commit_folder` does and compare it with the newest commit.

    Args:
        store: Store of the commits.
        folder: The folder.
        name: Name of the dataset; the folder's own if empty.
        shares: Share to hold out, and maximum share of bad samples.
        allow_shared_media: True if held-out samples may share media with training samples.
        depth: Media files to decode.
        again: True to check media again whose results are in the store.
        cache_file: File with the results of earlier checks (see `FileCache`).

    Raises:
        DatasetError: The folder or its conversations do not exist, or it has no usable sample.
        SplitError: Every split has shared media.
        CommitError: The name is not allowed, or the newest commit is damaged.
    """
    chosen = name or name_of_folder(folder)
    check_name(chosen)
    newest = find_commit(store, chosen) if store.exists(ref_key(chosen)) else None
    before = _nothing() if newest is None else compared_commit(store, newest)
    with FileCache(cache_file) as cache:
        known = known_folder(cache, folder, chosen, shares, allow_shared_media=allow_shared_media)
        if newest is not None and known is not None and known.commit == newest.id and not again:
            return _unchanged(newest, before)
        checks = MediaChecks(cache, store, depth=depth, again=again)
        files = None if known is None else known.files
        progress = progress_reporter("data", "files checked")
        scan = read_folder(folder, progress, checks=checks, files=files)
    content = folder_content(folder, scan, shares, allow_shared_media=allow_shared_media)
    changes = compare_contents(before, ComparedContent(content=content, facts=lambda one: scan.files.facts))
    return FolderStatus(
        name=chosen,
        newest=newest,
        compare=lambda: changes,
        is_same=not changes,
        left_out=scan.quarantined,
        commits=newest is None or bool(changes) or content.quarantined != newest.manifest.quarantined,
        refused=scan.bad_share > shares.max_bad_share,
        pending=len(scan.files.pending),
    )


def _unchanged(newest: Commit, content: ComparedContent) -> FolderStatus:
    return FolderStatus(
        name=newest.name,
        newest=newest,
        compare=functools.partial(no_changes, content),
        is_same=True,
        left_out=(),
        commits=False,
        refused=False,
        pending=0,
    )


def _nothing() -> ComparedContent:
    return ComparedContent(content=content_in_memory({}, (), ()), facts=lambda one: {})
