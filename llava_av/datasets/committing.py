"""Commits of new content: media and samples are written, then the commit that lists them (`commits`)."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from llava_av.datasets.blob_sources import MediaSources, Source, media_sources
from llava_av.datasets.commits import Commit, CommitWriter, Head, OnConflict, has_content, read_head
from llava_av.datasets.file_cache import FileCache
from llava_av.datasets.manifest import LeftOut, QuarantinedEntry, check_name
from llava_av.datasets.packs import upload_content
from llava_av.datasets.ranges import sample_line
from llava_av.datasets.reading import ContentReader, content_in_memory
from llava_av.datasets.schema import Sample
from llava_av.datasets.stored_blobs import StoredBlobs
from llava_av.datasets.writers import announced
from llava_av.processes.progress import ProgressCallback
from llava_av.storage import ObjectStore

__all__ = ["commit_content", "commit_dataset", "omissions"]


def commit_dataset(
    store: ObjectStore,
    name: str,
    root: Path,
    splits: Mapping[str, Sequence[Sample]],
    quarantined: Iterable[LeftOut],
    *,
    before_head: Callable[[Commit], None] | None = None,
    head: Head | None = None,
    on_conflict: OnConflict = "fail",
    cache: FileCache | None = None,
    progress: ProgressCallback | None = None,
) -> Commit:
    """Commit samples and the media in a folder that they name.

    Args:
        store: Object store to write to.
        name: Name of the dataset.
        root: Folder that media paths are relative to.
        splits: Samples of each split, in any order.
        quarantined: Samples that were left out; stored in the commit.
        before_head: As for `commit_content`.
        head: As for `commit_content`.
        on_conflict: As for `commit_content`.
        cache: As for `commit_content`.
        progress: As for `commit_content`.

    Returns:
        As `commit_content`.

    Raises:
        CommitError: As for `commit_content`; or a path is not allowed, or a media file is missing.
        StoreError: The object store cannot be used.
    """
    check_name(name)
    head = read_head(store, name) if head is None else head
    cache = FileCache() if cache is None else cache
    sources = {source.path: source for source in media_sources(root, splits, cache)}
    lines = {split: list(map(sample_line, own)) for split, own in splits.items()}
    content = content_in_memory(lines, map(Source.row, sources.values()), omissions(quarantined))
    return commit_content(
        store,
        name,
        content,
        lambda rows: (sources[row.path] for row in rows),
        before_head=before_head,
        head=head,
        on_conflict=on_conflict,
        cache=cache,
        progress=progress,
    )


@announced
def commit_content(
    store: ObjectStore,
    name: str,
    content: ContentReader,
    sources: MediaSources,
    *,
    before_head: Callable[[Commit], None] | None = None,
    head: Head,
    on_conflict: OnConflict = "fail",
    cache: FileCache,
    progress: ProgressCallback | None = None,
) -> Commit:
    """Write content that the store lacks, and the commit that lists it.

    An equal newest commit is kept. Content that the newest commit has is not sent again, and not looked for:
    `verification` finds what the store has lost.

    Args:
        store: Object store to write to.
        name: Name of the dataset.
        content: The content.
        sources: Returns the sources of media files; called for those that may be new.
        before_head: Called with the new commit before it becomes the newest one, to write what belongs to it.
        head: Commit that the content is based on.
        on_conflict: Reaction to another newest commit than `head` when the ref is moved.
        cache: Digests of files that need not be read again.
        progress: Called with the number of uploaded files and of files to upload.

    Returns:
        The new commit, or the newest existing one, marked as `unchanged`.

    Raises:
        CommitError: The name is not allowed, a media file changes during the commit, or another writer
            committed meanwhile.
        StoreError: The object store cannot be used.
    """
    check_name(name)
    # Read after the announcement, so no deletion can take what this commit relies on.
    newest = read_head(store, name, head)
    sizes: Sequence[int] = ()
    stored = StoredBlobs(store, name)
    stored.add(content, newest.reader(store))
    if newest.commit is None or not has_content(store, newest.commit, content):
        sizes = upload_content(store, content, newest.reader(store), sources, stored, cache, progress)
    writer = CommitWriter(
        store=store, name=name, on_conflict=on_conflict, cache=cache, before_head=before_head, stored=stored
    )
    return replace(writer.add(content, head), uploaded_files=len(sizes), uploaded_bytes=sum(sizes))


def omissions(left_out: Iterable[LeftOut]) -> list[QuarantinedEntry]:
    """Return the entries of a commit for lines and media files that were left out."""
    return [QuarantinedEntry(file=one.file, reason=one.reason, samples=one.samples) for one in left_out]
