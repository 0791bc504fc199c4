"""Operations on data versions into which tests inject faults, with the conditions that hold afterwards."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llava_av.datasets import stored_checks
from llava_av.datasets.blob_cache import BlobCache
from llava_av.datasets.commit_files import CommitFiles
from llava_av.datasets.commits import Commit
from llava_av.datasets.contents import Selection
from llava_av.datasets.exports.exporting import export
from llava_av.datasets.extraction import extract
from llava_av.datasets.filtering import Conditions
from llava_av.datasets.ingest_results import ResultSender, SharedCache, delete_results, read_ingest_results
from llava_av.datasets.manifest import CommitRecord, canonical_json, sha256_hex
from llava_av.datasets.media_facts import pending_keys
from llava_av.datasets.media_stream import MediaStream
from llava_av.datasets.pending_checks import decode_pending, pending_files
from llava_av.datasets.sample_table import sample_table
from llava_av.datasets.verification import verify_commits
from llava_av.storage import ObjectStore
from llava_av.workflows.derive_commits import filter_commit, merge_commits
from tests.fault_proxy import FaultProxy
from tests.integration.commits.folders import commit, copied, make, media, tree

COUNT = 70
"""Number of files, which is enough for packs."""


@dataclass
class Place:
    """A bucket with two commits, directly and through the proxy."""

    direct: ObjectStore
    proxy: FaultProxy
    folder: Path
    commit: Commit

    def hasty(self, **limits: float) -> ObjectStore:
        """Return the store behind the proxy."""
        return ObjectStore(replace(self.direct.settings, endpoint=self.proxy.url, **limits))


def expected_id(name: str, made: Commit) -> str:
    """Return the ID of the first commit of a dataset with the manifest of another commit."""
    return sha256_hex(
        canonical_json(
            CommitRecord(name=name, manifest=sha256_hex(canonical_json(made.manifest)), parent=None)
        )
    )


def do_commit(place: Place, store: ObjectStore, name: str, work: Path) -> Any:
    root = place.folder / name
    made = commit(store, root, make(root, COUNT, salt=name), name=name)
    assert made.id == expected_id(name, made)
    assert verify_commits(place.direct, [made]).damaged == ()
    return made.id, media(copied(place.direct, made, work / "copy")) == media(root)


def do_extract(place: Place, store: ObjectStore, name: str, work: Path) -> Any:
    extract(store, place.commit, work / "copy", Selection(pattern="clips/1*"))
    return tree(work / "copy")


def do_export(place: Place, store: ObjectStore, name: str, work: Path) -> Any:
    export(store, place.commit, work / "tars", "webdataset", shard_bytes=100_000)
    return tree(work / "tars")


def do_stream(place: Place, store: ObjectStore, name: str, work: Path) -> Any:
    samples = list(sample_table(store, place.commit, "train", work / "tables"))
    cache = BlobCache(work / "cache", max_bytes=10**6)
    stream = MediaStream(cache, CommitFiles(store, place.commit, work / "ranges").find, processes=1)
    read = {}
    try:
        stream.expect(0, [(one, None) for one in samples[:12]])
        for one in samples[:12]:
            with stream.files(one) as files:
                read[one.id] = files[one.video[0]].read_bytes()
    finally:
        stream.close()
        cache.close()
    assert not list((work / "cache/claims").iterdir())
    return samples, read


def do_decode(place: Place, store: ObjectStore, name: str, work: Path) -> Any:
    root = place.folder / name
    made = commit(place.direct, root, make(root, COUNT, salt=name), name=name)
    [key] = pending_keys(made)
    digests = sorted(row.sha256 for row in made.reader(place.direct).files)[:5]
    place.direct.put_json(key, {"pending": digests})
    done = decode_pending(store, [made])
    assert pending_files(place.direct, made).failures.keys() == set(digests)
    return [(one.paths, one.state) for one in done.damaged]


def do_results(place: Place, store: ObjectStore, name: str, work: Path) -> Any:
    own = {sha256_hex(f"{name}{number}".encode()): f"result {number}" for number in range(4)}
    stored_checks.add_results(place.direct, dict(list(own.items())[:1]))
    stored_checks.add_results(store, own)
    cache = SharedCache()
    ingest = sha256_hex(name.encode())[:16]
    for number in range(3):
        cache.remember_verified(f"s3://b/{number}", "tag")
        ResultSender(store, ingest, cache).send()
    facts = [sorted(one.values()) for one in read_ingest_results(store, ingest)]
    delete_results(store, ingest)
    assert list(read_ingest_results(place.direct, ingest)) == []
    return sorted(stored_checks.results_of(store, own).values()), len(facts)


def do_merge(place: Place, store: ObjectStore, name: str, work: Path) -> Any:
    made = merge_commits(store, ["d", "e"], name, prefix=True, author="a").commit
    assert made.id == expected_id(name, made)
    assert verify_commits(place.direct, [made]).damaged == ()
    copy = copied(place.direct, made, work / "copy")
    return sha256_hex(canonical_json(made.manifest)), len(media(copy / "d")) + len(media(copy / "e"))


def do_filter(place: Place, store: ObjectStore, name: str, work: Path) -> Any:
    made = filter_commit(store, "d", name, Conditions(pattern="clips/1*"), author="a").commit
    assert made.id == expected_id(name, made)
    assert verify_commits(place.direct, [made]).damaged == ()
    return sha256_hex(canonical_json(made.manifest)), media(copied(place.direct, made, work / "copy"))


DO: Mapping[str, Callable[[Place, ObjectStore, str, Path], Any]] = {
    "commit": do_commit,
    "extract": do_extract,
    "export": do_export,
    "stream": do_stream,
    "decode": do_decode,
    "results": do_results,
    "merge": do_merge,
    "filter": do_filter,
}
