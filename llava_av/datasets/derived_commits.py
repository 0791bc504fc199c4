"""Commits of content that is derived from other commits (`derived_content`)."""

from collections.abc import Callable
from dataclasses import replace

from llava_av.datasets.commits import Commit, CommitWriter, has_content, read_head
from llava_av.datasets.file_cache import FileCache
from llava_av.datasets.manifest import CommitError, check_name
from llava_av.datasets.reading import ContentReader
from llava_av.datasets.stored_blobs import StoredBlobs
from llava_av.datasets.writers import announced
from llava_av.storage import ObjectStore

__all__ = ["commit_derived"]

_ATTEMPTS = 5


@announced
def commit_derived(
    store: ObjectStore,
    name: str,
    build: Callable[[], ContentReader],
    *,
    before_head: Callable[[Commit], None] | None = None,
) -> Commit:
    """Commit content whose ranges, media and placements are stored already.

    Args:
        store: Object store of the content.
        name: Name of the dataset.
        build: Returns the content; called again if another writer commits meanwhile.
        before_head: As for `committing.commit_content`.

    Returns:
        The new commit, or an equal newest one, marked as `unchanged`.

    Raises:
        CommitError: The name is not allowed, or many others commit at the same time.
        StoreError: The object store cannot be used.
    """
    check_name(name)
    for attempt in range(_ATTEMPTS):
        head = read_head(store, name)
        content = build()
        # An equal commit after the first attempt is this one, whose answer was lost, or another writer's.
        if head.commit is not None and has_content(store, head.commit, content):
            return replace(head.commit, unchanged=not attempt)
        stored = StoredBlobs(store, name)
        stored.add(content, content)
        writer = CommitWriter(
            store=store,
            name=name,
            on_conflict="fail",
            cache=FileCache(),
            before_head=before_head,
            stored=stored,
        )
        if (commit := writer.write(content, head)) is not None:
            return commit
    raise CommitError(f"dataset {name} was changed by another writer {_ATTEMPTS} times meanwhile: run again")
