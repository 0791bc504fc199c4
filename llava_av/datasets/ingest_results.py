"""Results of a distributed ingest before its commit, in the object store.

datasets/.ingests/<ingest>-<digits>.json    facts of a `FileCache` about files that one process has read

Each process adds the facts that it learns, in objects of its own, so processes never wait for each other. A
process that starts again first reads the facts of all. They are deleted after the commit; `data gc` deletes
those of abandoned ingests.
"""

import hashlib
import logging
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from llava_av.datasets.file_cache import FileCache
from llava_av.storage import ObjectDamaged, ObjectStore, map_parallel
from llava_av.storage.seals import json_bytes

__all__ = ["INGESTS", "ResultSender", "SharedCache", "delete_results", "read_ingest_results"]

_LOG = logging.getLogger(__name__)

INGESTS = "datasets/.ingests/"
"""Start of the keys of all results."""
_NAME_DIGITS = 16
_SENT_FACTS, _SENT_S = 1000, 20.0


class SharedCache(FileCache):
    """File cache that also collects new facts until `take` returns them."""

    def __init__(self, file: Path | None = None) -> None:
        self._learned: dict[str, str] = {}
        self._learning = threading.Lock()
        super().__init__(file)

    def _put(self, key: str, value: str) -> None:
        with self._learning:
            self._learned[key] = value
        super()._put(key, value)

    @property
    def learned(self) -> int:
        """Return the number of facts that `take` has not returned yet."""
        return len(self._learned)

    def take(self) -> dict[str, str]:
        """Return the facts that were learned since the last call."""
        with self._learning:
            facts, self._learned = self._learned, {}
        return facts


class ResultSender:
    """Sender of the facts that a cache learns."""

    def __init__(self, store: ObjectStore, ingest: str, cache: SharedCache) -> None:
        self._store, self._ingest, self._cache = store, ingest, cache
        self._sent = time.monotonic()

    def send_if_due(self) -> None:
        """Send new facts if there are many, or if the last call of `send` was long ago."""
        if self._cache.learned >= _SENT_FACTS or time.monotonic() - self._sent > _SENT_S:
            self.send()

    def send(self) -> None:
        """Send new facts.

        Raises:
            StoreError: The object store cannot be used.
        """
        self._sent = time.monotonic()
        if facts := self._cache.take():
            name = hashlib.sha256(json_bytes(facts)).hexdigest()[:_NAME_DIGITS]
            self._store.put_json(f"{INGESTS}{self._ingest}-{name}.json", facts)


def read_ingest_results(store: ObjectStore, ingest: str) -> Iterator[Mapping[str, str]]:
    """Yield the facts of an ingest; those that are damaged are left out.

    Raises:
        StoreError: The object store cannot be used.
    """
    for key in _keys(store, ingest):
        try:
            found = store.find_json(key)
        except ObjectDamaged as error:
            _LOG.warning("reading files again: %s", error)
            continue
        if isinstance(found, dict):
            yield {str(name): str(value) for name, value in found.items()}


def delete_results(store: ObjectStore, ingest: str) -> None:
    """Delete the facts of an ingest."""
    map_parallel(store.delete, _keys(store, ingest))


def _keys(store: ObjectStore, ingest: str) -> list[str]:
    return [info.key for info in store.list(f"{INGESTS}{ingest}-")]
