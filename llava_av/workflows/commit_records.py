"""Records that accompany a dataset commit: its entry in the history, and the properties of its media."""

import datetime
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet

from llava_av.datasets.commits import Commit
from llava_av.datasets.history import HistoryEntry, write_entry
from llava_av.datasets.media_facts import write_facts
from llava_av.media.info import MediaInfo
from llava_av.storage import ObjectStore
from llava_av.workflows.runtime.author import author as default_author

__all__ = ["recording"]


def recording(
    store: ObjectStore,
    *,
    message: str = "",
    author: str = "",
    media: Mapping[str, MediaInfo] | None = None,
    pending: AbstractSet[str] = frozenset(),
) -> Callable[[Commit], None]:
    """Return a function that writes the records of a new commit, for `commit_dataset`.

    Args:
        store: Store of the commit.
        message: Message of the commit.
        author: Author; git's user or the current actor if empty.
        media: Properties of its media by the digest of their content; None if they are unknown.
        pending: Digests of media that were not decoded.
    """

    def record(commit: Commit) -> None:
        now = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
        write_entry(store, commit, HistoryEntry(at=now, author=author or default_author(), message=message))
        if media is not None:
            write_facts(store, commit, media, pending)

    return record
