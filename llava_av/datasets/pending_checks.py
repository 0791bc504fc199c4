"""Files of commits that were not decoded when they were committed, and their decoding.

A commit lists its pending files beside the properties of its media (`media_facts`). They are decoded from the
store, in the order of their digests, and each batch of results is stored at once (`stored_checks`), so a
decoding that was interrupted continues. Content that does not decode stays in the list with its reason until
a commit leaves it out.
"""

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from llava_av.datasets.commits import Commit
from llava_av.datasets.manifest import CommitError
from llava_av.datasets.media_blobs import download_files, find_places
from llava_av.datasets.media_checks import check_decoding, failure_of
from llava_av.datasets.media_facts import stored_pending
from llava_av.datasets.placements import Place
from llava_av.datasets.ranges import FileRow
from llava_av.datasets.stored_checks import add_results, results_of
from llava_av.datasets.verification import DamagedBlob, describe_damage
from llava_av.processes.progress import ProgressCallback
from llava_av.storage import ObjectStore, map_parallel
from llava_av.storage.store_errors import local_files

__all__ = ["DecodedFiles", "PendingFiles", "decode_pending", "pending_files"]

_WORKERS = 4
_BATCH = 256


@dataclass(frozen=True, kw_only=True)
class PendingFiles:
    """Files of a commit whose content is not known to decode, by the digest of their content."""

    digests: frozenset[str]
    """Files that were not decoded yet."""
    failures: Mapping[str, str]
    """Reasons of those that were decoded since and cannot be used."""


@dataclass(frozen=True, kw_only=True)
class DecodedFiles:
    """Result of decoding the pending files of some commits."""

    commits: int
    decoded: int
    """Files that were decoded, including those that cannot be used."""
    damaged: tuple[DamagedBlob, ...]
    """Files that cannot be used, also from earlier decodings, with the reason as their state."""


def pending_files(store: ObjectStore, commit: Commit) -> PendingFiles:
    """Return the files of a commit that were not decoded.

    Raises:
        StoreError: The object store cannot be used.
    """
    return _pending(store, _digests(stored_pending(store, commit)))


def _digests(lists: Mapping[str, Iterable[str]]) -> set[str]:
    return {digest for digests in lists.values() for digest in digests}


def _pending(store: ObjectStore, digests: set[str]) -> PendingFiles:
    known = results_of(store, digests)
    return PendingFiles(
        digests=frozenset(digests - known.keys()),
        failures={digest: reason for digest, text in known.items() if (reason := failure_of(text))},
    )


def decode_pending(
    store: ObjectStore, commits: Sequence[Commit], progress: ProgressCallback | None = None
) -> DecodedFiles:
    """Decode the pending files of some commits, each once, and store the results.

    Args:
        store: Store of the commits.
        commits: The commits.
        progress: Called with the number of decoded files and of files to decode.

    Raises:
        CommitError: A list of files is lost or damaged.
        StoreError: The object store or the local disk cannot be used.
    """
    lists = {key: own for commit in commits for key, own in stored_pending(store, commit).items()}
    pending = _pending(store, _digests(lists))
    files = sorted(_stored_files(store, commits, pending.digests), key=lambda item: item[0])
    bad = dict(pending.failures)
    temporary = Path(tempfile.gettempdir())
    with local_files(temporary / "llava-av"), tempfile.TemporaryDirectory(prefix="llava-av-") as folder:
        for start in range(0, len(files), _BATCH):
            results = _decoded(store, files[start : start + _BATCH], Path(folder))
            add_results(store, {digest: one.text for digest, one in results.items() if one.text})
            bad |= {digest: one.failure for digest, one in results.items() if one.failure}
            if progress is not None:
                progress(start + len(results), len(files))
    # The lists with a file that cannot be used are needed to name it.
    done = [key for key, digests in lists.items() if bad.keys().isdisjoint(digests)]
    map_parallel(store.delete, done)
    damaged = tuple(describe_damage(store, commits, bad))
    return DecodedFiles(commits=len(commits), decoded=len(files), damaged=damaged)


@dataclass(frozen=True, kw_only=True)
class _StoredFile:
    """A file of a commit, and its place if it is in a pack."""

    row: FileRow
    place: Place | None


@dataclass(frozen=True, kw_only=True)
class _Result:
    """Result of decoding a stored file."""

    text: str
    """Result for the content; empty if the content is lost or damaged."""
    failure: str
    """Reason why the file cannot be used; empty if it can."""


def _stored_files(
    store: ObjectStore, commits: Iterable[Commit], digests: Iterable[str]
) -> Iterator[tuple[str, _StoredFile]]:
    """Yield a file with each digest."""
    left = set(digests)
    for commit in commits if left else ():
        reader = commit.reader(store)
        rows = {row.sha256: row for row in reader.files if row.sha256 in left}
        left -= rows.keys()
        places = find_places(reader, rows.values())
        yield from ((digest, _StoredFile(row=row, place=places.get(digest))) for digest, row in rows.items())


def _decoded(
    store: ObjectStore, files: Sequence[tuple[str, _StoredFile]], folder: Path
) -> dict[str, _Result]:
    results = map_parallel(lambda item: _decode(store, item[1], folder / item[0]), files, workers=_WORKERS)
    return {digest: result for (digest, _), result in zip(files, results, strict=True)}


def _decode(store: ObjectStore, found: _StoredFile, folder: Path) -> _Result:
    row = found.row
    path = folder / row.path
    try:
        download_files(store, [row], {} if found.place is None else {row.sha256: found.place}, folder)
        text = check_decoding(path)
    except CommitError as error:
        return _Result(text="", failure=str(error))
    finally:
        path.unlink(missing_ok=True)
    return _Result(text=text, failure=failure_of(text) or "")
