"""Commits that are derived from other commits: the union of several, and a subset of one.

No media are downloaded or uploaded. The history entry of the new commit names the commits and the operation.
"""

import datetime
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from llava_av.datasets.commits import Commit, find_commit
from llava_av.datasets.derived_commits import commit_derived
from llava_av.datasets.filtering import Conditions, write_subset
from llava_av.datasets.history import HistoryEntry, write_entry
from llava_av.datasets.merging import write_union
from llava_av.datasets.reading import ContentReader
from llava_av.datasets.sources.rows import DatasetError
from llava_av.storage import ObjectStore
from llava_av.workflows.commit_data import require_own_name
from llava_av.workflows.runtime.author import author as default_author

__all__ = ["Derived", "filter_commit", "merge_commits"]

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Derived:
    """A derived commit and the commits that it was derived from."""

    commit: Commit
    sources: tuple[str, ...]
    """The commits, as NAME@ID."""
    left_out: int = 0
    """Number of training samples that a merge has left out."""


def merge_commits(
    store: ObjectStore,
    names: Sequence[str],
    into: str,
    *,
    prefix: bool = False,
    leave_out_shared: bool = False,
    message: str = "",
    author: str = "",
) -> Derived:
    """Commit the union of several commits.

    Args:
        store: Store of the commits.
        names: The commits, each as `NAME`, `NAME@COMMIT` or `NAME@TAG`.
        into: Name of the dataset to commit to; it may be new.
        prefix: True to prefix each ID and path with the name of its dataset.
        leave_out_shared: True to leave out training samples that share media with another split.
        message: Message for the history.
        author: Author for the history; git's user or the current actor if empty.

    Raises:
        DatasetError: There is only one commit, or the name is reserved.
        CommitError: The commits conflict, or cannot be read.
        StoreError: The object store cannot be used.
    """
    if len(names) < 2:
        raise DatasetError(f"a merge needs at least 2 commits, but got {' '.join(names)}: name another one")
    sources: list[str] = []
    left_out = 0

    def build() -> ContentReader:
        nonlocal left_out
        commits = [find_commit(store, name) for name in names]
        sources[:] = [f"{one.name}@{one.id}" for one in commits]
        merged = write_union(store, into, commits, prefix=prefix, leave_out_shared=leave_out_shared)
        left_out = merged.left_out
        return merged.content

    def entry() -> HistoryEntry:
        options = ["merge"] + ["--prefix"] * prefix + ["--leave-out-shared"] * leave_out_shared
        return _entry(message, author, " ".join(options), sources)

    commit = _committed(store, into, build, entry)
    return Derived(commit=commit, sources=tuple(sources), left_out=left_out)


def filter_commit(
    store: ObjectStore, name: str, into: str, conditions: Conditions, *, message: str = "", author: str = ""
) -> Derived:
    """Commit the samples of a commit that meet conditions.

    Args:
        store: Store of the commits.
        name: The commit, as `NAME`, `NAME@COMMIT` or `NAME@TAG`.
        into: Name of the dataset to commit to; it may be new.
        conditions: Conditions on the samples.
        message: Message for the history.
        author: Author for the history; git's user or the current actor if empty.

    Raises:
        DatasetError: The name is reserved.
        UserError: No sample meets the conditions, or properties that they need are unknown.
        CommitError: The commit cannot be read.
        StoreError: The object store cannot be used.
    """
    sources: list[str] = []

    def build() -> ContentReader:
        commit = find_commit(store, name)
        sources[:] = [f"{commit.name}@{commit.id}"]
        return write_subset(store, into, commit, conditions)

    operation = f"filter {conditions}".rstrip()
    commit = _committed(store, into, build, lambda: _entry(message, author, operation, sources))
    return Derived(commit=commit, sources=tuple(sources))


def _entry(message: str, author: str, operation: str, sources: Sequence[str]) -> HistoryEntry:
    return HistoryEntry(
        at=datetime.datetime.now(datetime.UTC).replace(microsecond=0),
        author=author or default_author(),
        message=message,
        operation=operation,
        sources=tuple(sources),
    )


def _committed(
    store: ObjectStore, name: str, build: Callable[[], ContentReader], entry: Callable[[], HistoryEntry]
) -> Commit:
    require_own_name(name)
    commit = commit_derived(
        store, name, build, before_head=lambda commit: write_entry(store, commit, entry())
    )
    if commit.unchanged and (message := entry().message):
        _LOG.warning("the message %r is not stored: %s has no change since %s", message, name, commit.id[:16])
    return commit
