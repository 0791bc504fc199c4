"""History of a dataset: author, time and message of each commit.

datasets/<name>/history/<id>.json    `HistoryEntry`

An entry is written before the ref is moved to its commit. It is not part of the commit, so equal content on
top of the same parent has the same ID, whoever commits it. Commits of earlier versions have no entry.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from pydantic import AwareDatetime, ConfigDict, ValidationError

from llava_av.datasets.commits import Commit, read_commit
from llava_av.datasets.manifest import CommitError, commit_key
from llava_av.frozen import FrozenModel
from llava_av.storage import ObjectStore

__all__ = ["HistoryEntry", "LoggedCommit", "history_key", "read_entry", "read_log", "write_entry"]


class HistoryEntry(FrozenModel):
    """Author, time and message of a commit."""

    model_config = ConfigDict(extra="ignore")

    at: AwareDatetime
    """Time of the commit by the clock of its writer."""
    author: str
    """Author, such as `Ada <ada@example.org>`."""
    message: str = ""
    """Message; empty if none was given."""
    operation: str = ""
    """Derivation from `sources`, such as `filter --split train`; empty for the commit of a folder."""
    sources: tuple[str, ...] = ()
    """Commits that it was derived from, as NAME@ID."""


@dataclass(frozen=True, kw_only=True)
class LoggedCommit:
    """A commit and its history entry; None for a commit of an earlier version."""

    commit: Commit
    entry: HistoryEntry | None


def history_key(name: str, commit: str) -> str:
    """Return the key of a commit's history entry."""
    return f"datasets/{name}/history/{commit}.json"


def write_entry(store: ObjectStore, commit: Commit, entry: HistoryEntry) -> None:
    """Write the history entry of a commit, in place of that of a writer that was killed."""
    store.put_json(history_key(commit.name, commit.id), entry.model_dump(mode="json"))


def read_entry(store: ObjectStore, commit: Commit) -> HistoryEntry | None:
    """Return the history entry of a commit; None if it has none.

    Raises:
        CommitError: It does not have the form of an entry.
        ObjectDamaged: It does not match its checksum.
    """
    key = history_key(commit.name, commit.id)
    found = store.find_json(key)
    try:
        return None if found is None else HistoryEntry.model_validate(found)
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise CommitError(
            f"{store.uri(key)} is not a history entry ({reason}): restore it from a backup, or delete it"
        ) from None


def read_log(store: ObjectStore, newest: Commit) -> Iterator[LoggedCommit]:
    """Yield a commit and its ancestors, the newest first, as far as they are stored.

    Raises:
        CommitError: A commit or an entry is damaged.
        StoreError: The object store cannot be used.
    """
    commit: Commit | None = newest
    while commit is not None:
        yield LoggedCommit(commit=commit, entry=read_entry(store, commit))
        parent = commit.parent
        # Old commits may have been deleted by `data gc`.
        stored = parent is not None and store.exists(commit_key(commit.name, parent))
        commit = read_commit(store, commit.name, parent) if parent is not None and stored else None
