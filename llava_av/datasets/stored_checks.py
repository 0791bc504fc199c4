"""Results of the checks of media content, in the object store, for all datasets and machines.

datasets/.checks/<version>-<2 hex>.json    results by the digest of the content, with these first digits

A result belongs to content, so it stays valid whatever the name or the dataset of a file. Only results of
complete decoding are stored. Results are text (`media_checks`). They are a cache: content that an object
lacks, because it was lost or damaged, is checked again.
"""

import json
import logging
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping

from llava_av.media.info import CHECK_VERSION
from llava_av.storage import ObjectDamaged, ObjectMissing, ObjectStore, map_parallel
from llava_av.storage.seals import json_bytes, seal

__all__ = ["add_results", "bucket_of", "read_stored_results", "results_of", "stored_buckets"]

_LOG = logging.getLogger(__name__)
_FOLDER = "datasets/.checks/"
_ATTEMPTS = 20


def bucket_of(sha256: str) -> str:
    """Return the part of the results that a digest belongs to."""
    return sha256[:2]


def _key(bucket: str) -> str:
    return f"{_FOLDER}{CHECK_VERSION}-{bucket}.json"


def stored_buckets(store: ObjectStore) -> set[str]:
    """Return the parts of the results that exist."""
    start = _key("").removesuffix(".json")
    return {info.key.removeprefix(start).removesuffix(".json") for info in store.list(start)}


def read_stored_results(store: ObjectStore, bucket: str) -> dict[str, str]:
    """Return the results of one part by digest."""
    return _read(store, _key(bucket))[0]


def results_of(store: ObjectStore, digests: Iterable[str]) -> dict[str, str]:
    """Return the known results of some contents by digest."""

    def known(item: tuple[str, list[str]]) -> dict[str, str]:
        bucket, own = item
        results = read_stored_results(store, bucket)
        return {digest: results[digest] for digest in own if digest in results}

    found = map_parallel(known, _by_bucket(digests).items())
    return {digest: text for results in found for digest, text in results.items()}


def add_results(
    store: ObjectStore, results: Mapping[str, str], buckets: Collection[str] | None = None
) -> None:
    """Add results by digest; those of other writers stay.

    Args:
        store: Store of the results.
        results: Results by digest.
        buckets: Parts that exist, so that the others need not be read; None if that is unknown.
    """

    def add(item: tuple[str, list[str]]) -> None:
        bucket, own = item
        is_new = buckets is not None and bucket not in buckets
        _add(store, bucket, {digest: results[digest] for digest in own}, is_new=is_new)

    map_parallel(add, _by_bucket(results).items())


def _by_bucket(digests: Iterable[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for digest in digests:
        found[bucket_of(digest)].append(digest)
    return found


def _add(store: ObjectStore, bucket: str, results: Mapping[str, str], *, is_new: bool) -> None:
    key = _key(bucket)
    if is_new and store.create(key, _sealed(key, results)):
        return
    for _ in range(_ATTEMPTS):
        stored, etag = _read(store, key)
        if stored.items() >= results.items():
            return
        content = _sealed(key, {**stored, **results})
        if store.replace(key, content, etag) if etag else store.create(key, content):
            return
    _LOG.info("results of checks are not stored: many other writers replace %s", store.uri(key))


def _sealed(key: str, results: Mapping[str, str]) -> bytes:
    return seal(key, json_bytes(results))


def _read(store: ObjectStore, key: str) -> tuple[dict[str, str], str]:
    """Return the results and the entity tag of an object; nothing if it is missing or damaged."""
    try:
        content, etag = store.get_with_etag(key)
    except ObjectMissing:
        return {}, ""
    try:
        return _parsed(store.unsealed(key, content).content), etag
    except (ObjectDamaged, ValueError) as error:
        _LOG.warning("content is checked again: %s", error)
        return {}, etag


def _parsed(content: bytes) -> dict[str, str]:
    found = json.loads(content)
    if not isinstance(found, dict) or not all(isinstance(one, str) for one in found.values()):
        raise ValueError("the stored results of checks are not texts by digest")
    return found
