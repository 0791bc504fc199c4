"""Verification of stored content: every blob of some commits is read and compared with its digest.

A damaged or missing blob is named with the paths and samples that need it. `repair` replaces it by intact
content from a folder: a media file of any name, or the list of a split, which is built again from the
conversations.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from llava_av.datasets.commits import Commit, read_commit
from llava_av.datasets.contents import read_samples
from llava_av.datasets.manifest import CommitError, blob_key, safe_path
from llava_av.datasets.schema import Sample, SampleError
from llava_av.datasets.sources.rows import DatasetError, find_rows
from llava_av.datasets.uploads import split_sources
from llava_av.processes.progress import ProgressCallback
from llava_av.storage import ObjectMissing, ObjectStore, StoreError, file_sha256, map_parallel

__all__ = ["DamagedBlob", "Verification", "all_commits", "repair", "verify_commits"]


@dataclass(frozen=True, kw_only=True)
class DamagedBlob:
    """A blob that is missing or does not have the digest in its name."""

    sha256: str
    state: str
    """`missing`, `damaged`, or the reason why the store cannot read it."""
    paths: tuple[str, ...]
    """Paths that need it, as `NAME@COMMIT:PATH`."""
    samples: tuple[str, ...]
    """Samples whose media it is, as `NAME@COMMIT:ID`; none for the list of a split."""


@dataclass(frozen=True, kw_only=True)
class Verification:
    """Result of reading all blobs of some commits."""

    commits: int
    blobs: int
    bytes: int
    damaged: tuple[DamagedBlob, ...]


def all_commits(store: ObjectStore) -> Iterator[Commit]:
    """Yield all commits of all datasets.

    Raises:
        CommitError: A commit or its manifest is lost or damaged.
    """
    for info in store.list("datasets/"):
        parts = info.key.split("/")
        if len(parts) == 4 and parts[2] == "commits":
            yield read_commit(store, parts[1], parts[3].removesuffix(".json"))


def verify_commits(
    store: ObjectStore, commits: Sequence[Commit], progress: ProgressCallback | None = None
) -> Verification:
    """Read every blob of some commits, each once, and compare its digest.

    Args:
        store: Store of the commits.
        commits: The commits.
        progress: Called with the number of verified blobs and of blobs to verify.

    Raises:
        StoreError: The object store cannot be used.
    """
    sizes = {entry.sha256: entry.bytes for commit in commits for entry in commit.manifest.files.values()}
    states = map_parallel(
        lambda digest: _state(store, digest),
        sizes,
        on_done=None if progress is None else lambda done: progress(done, len(sizes)),
    )
    bad = {digest: state for digest, state in zip(sizes, states, strict=True) if state}
    return Verification(
        commits=len(commits),
        blobs=len(sizes),
        bytes=sum(sizes.values()),
        damaged=tuple(_described(store, commits, bad)),
    )


def _state(store: ObjectStore, digest: str) -> str:
    """Return the damage of a blob; "" if it is intact."""
    key = blob_key(digest)
    try:
        return "" if store.sha256(key) == digest else "damaged"
    except ObjectMissing:
        return "missing"
    except StoreError as error:
        # A server that answers for other requests cannot read this object.
        store.exists(key)
        return str(error)


def _described(
    store: ObjectStore, commits: Sequence[Commit], bad: Mapping[str, str]
) -> Iterator[DamagedBlob]:
    """Yield the blobs of `bad`, state by digest, with the paths and samples that need them."""
    paths: dict[str, list[str]] = {digest: [] for digest in sorted(bad)}
    samples: dict[str, list[str]] = {digest: [] for digest in paths}
    for commit in commits:
        label = f"{commit.name}@{commit.id[:16]}"
        files = commit.manifest.files.items()
        digests = {path: entry.sha256 for path, entry in files if entry.sha256 in bad}
        for path, digest in digests.items():
            paths[digest].append(f"{label}:{path}")
        for sample in _readable_samples(store, commit) if digests else ():
            named = {safe_path(path) for path in sample.media} & digests.keys()
            for digest in {digests[path] for path in named}:
                samples[digest].append(f"{label}:{sample.id}")
    for digest in paths:
        yield DamagedBlob(
            sha256=digest, state=bad[digest], paths=tuple(paths[digest]), samples=tuple(samples[digest])
        )


def _readable_samples(store: ObjectStore, commit: Commit) -> Iterator[Sample]:
    """Yield the samples of a commit, as far as the lists of its splits can be read."""
    for split in commit.manifest.splits:
        yield from _readable(store, commit, split)


def _readable(store: ObjectStore, commit: Commit, split: str) -> tuple[Sample, ...]:
    try:
        return read_samples(store, commit, split)
    except (CommitError, SampleError, StoreError):
        return ()


def repair(
    store: ObjectStore, commits: Sequence[Commit], damaged: Iterable[DamagedBlob], folder: Path
) -> list[str]:
    """Replace damaged blobs by intact content from a folder; return the digests of repaired blobs.

    Args:
        store: Store of the commits.
        commits: Commits that need the blobs.
        damaged: The blobs.
        folder: Folder with intact content: that of the dataset, or a copy of any commit.

    Raises:
        CommitError: The folder does not exist.
        StoreError: The object store cannot be used.
    """
    if not folder.is_dir():
        raise CommitError(f"--repair {folder} is not a folder: give one with intact copies of the files")
    wanted = {blob.sha256 for blob in damaged}
    sizes = {
        entry.bytes
        for commit in commits
        for entry in commit.manifest.files.values()
        if entry.sha256 in wanted
    }
    writes: dict[str, Callable[[], None]] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.stat().st_size in sizes and (digest := file_sha256(path)) in wanted:
            writes[digest] = partial(store.put_file, blob_key(digest), path)
    for digest, content in _rebuilt_lists(store, commits, wanted - writes.keys(), folder).items():
        writes[digest] = partial(store.put_bytes, blob_key(digest), content)
    map_parallel(lambda write: write(), writes.values())
    return [digest for digest in writes if not _state(store, digest)]


def _rebuilt_lists(
    store: ObjectStore, commits: Sequence[Commit], wanted: set[str], folder: Path
) -> dict[str, bytes]:
    """Return the lists of splits, by digest, that the conversations of a folder contain."""
    samples = _conversations(folder)
    found: dict[str, bytes] = {}
    for commit in commits:
        manifest = commit.manifest
        for split in manifest.splits:
            if samples and manifest.list_of(split).sha256 in wanted:
                [source] = split_sources({split: _members(store, commit, split, samples)})
                if source.content is not None and source.entry.sha256 in wanted:
                    found[source.entry.sha256] = source.content
    return found


def _members(store: ObjectStore, commit: Commit, split: str, samples: Mapping[str, Sample]) -> list[Sample]:
    """Return the samples of a folder that belong to a split: that state it, or are in no other list."""
    others = {
        sample.id
        for other in commit.manifest.splits
        if other != split
        for sample in _readable(store, commit, other)
    }
    return [
        sample.model_copy(update={"split": None})
        for sample in samples.values()
        if sample.split == split or (sample.split is None and sample.id not in others)
    ]


def _conversations(folder: Path) -> dict[str, Sample]:
    """Return the usable samples of a folder by ID; none if it has no conversations."""
    try:
        rows = find_rows(folder)
    except DatasetError:
        return {}
    samples: dict[str, Sample] = {}
    for number, row in rows.rows:
        try:
            sample = rows.parse(number, row)
        except SampleError:
            continue
        samples.setdefault(sample.id, sample)
    return samples
