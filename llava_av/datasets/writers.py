"""Agreement between commands that write commits and `data gc`, which deletes blobs.

datasets/.writers/<random>.json    a commit that is being written
datasets/.deletion.json            the lock of `data gc`

A writer relies on blobs that the store has already, and refers to them only when its commit is complete.
Between these moments such a blob looks unused. Each side therefore first writes its own object and then looks
for that of the other side, so at least one of the two sees the other. A writer that sees the lock fails and
can be retried. A deletion that sees a writer fails without deleting.

Both objects expire, so that a killed command does not block others forever. The lock expires after 10 minutes
without renewal, and its holder deletes only within 5 minutes of a renewal, so clocks may differ by 5 minutes.
The announcement of a writer expires after the age from which blobs are deleted, at least 7 days.
"""

import contextlib
import datetime
import functools
import json
import logging
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any, Concatenate, ParamSpec, TypeVar

from llava_av.datasets.manifest import CommitError
from llava_av.storage import ObjectMissing, ObjectStore, StoreError
from llava_av.storage.seals import json_bytes, seal

__all__ = ["DeletionLock", "announced", "deletion_lock", "require_no_writer"]

_LOG = logging.getLogger(__name__)

_WRITERS = "datasets/.writers/"
_LOCK = "datasets/.deletion.json"
_LOCK_EXPIRY = datetime.timedelta(minutes=10)
_RENEW_S, _TRUST_S = 60.0, 300.0

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


def announced(
    write: Callable[Concatenate[ObjectStore, str, _Arguments], _Result],
) -> Callable[Concatenate[ObjectStore, str, _Arguments], _Result]:
    """Announce each call of a function that writes a commit or a tag; it gets store and dataset first.

    The function raises CommitError, which is transient, while `data gc` deletes.
    """

    @functools.wraps(write)
    def announcing(
        store: ObjectStore, name: str, /, *args: _Arguments.args, **options: _Arguments.kwargs
    ) -> _Result:
        with _announcement(store, name):
            return write(store, name, *args, **options)

    return announcing


@contextlib.contextmanager
def _announcement(store: ObjectStore, name: str) -> Iterator[None]:
    key = f"{_WRITERS}{uuid.uuid4().hex}.json"
    store.put_json(key, {"dataset": name, "since": _now().isoformat()})
    try:
        lock = store.find_json(_LOCK)
        if lock is not None and _age(lock) < _LOCK_EXPIRY:
            raise CommitError(
                f"dataset {name} is not changed: `data gc` has been deleting unused objects since "
                f"{lock['since']}; run again when it has ended",
                transient=True,
            )
        yield
    finally:
        try:
            store.delete(key)
        except StoreError as error:
            # The commit itself is not affected, and the announcement expires.
            _LOG.warning(
                "`data gc` fails until %s expires, which cannot be deleted: %s", store.uri(key), error
            )


def require_no_writer(store: ObjectStore, expiry: datetime.timedelta) -> None:
    """Require that no commit is being written; for the holder of the lock.

    Args:
        store: The store.
        expiry: Age from which an announcement is that of a killed writer.

    Raises:
        CommitError: A commit is being written; names its dataset.
    """
    for info in store.list(_WRITERS):
        writer = store.find_json(info.key)
        if writer is not None and _age(writer) < expiry:
            raise CommitError(
                f"nothing is deleted: dataset {writer['dataset']} is being committed since "
                f"{writer['since']}; run again when that has ended, or delete {store.uri(info.key)} if its "
                "process was killed"
            )


class DeletionLock:
    """Lock of a deletion that is held."""

    def __init__(self, store: ObjectStore, etag: str) -> None:
        self._store = store
        self._etag = etag
        self._renewed = time.monotonic()

    def renew(self) -> None:
        """Keep the lock; to be called before each deletion.

        Raises:
            CommitError: Another command has the lock, because this one was stopped for too long.
        """
        since = time.monotonic() - self._renewed
        if since < _RENEW_S:
            return
        begun = time.monotonic()
        content = _lock_content()
        if since > _TRUST_S or not self._store.replace(_LOCK, content, self._etag):
            raise CommitError("the deletion was stopped for too long and lost its lock: run `data gc` again")
        self._etag = self._store.get_with_etag(_LOCK)[1]
        self._renewed = begun

    def release(self) -> None:
        """Delete the lock, unless another command has taken it over."""
        with contextlib.suppress(ObjectMissing):
            if self._store.get_with_etag(_LOCK)[1] == self._etag:
                self._store.delete(_LOCK)


@contextlib.contextmanager
def deletion_lock(store: ObjectStore) -> Iterator[DeletionLock]:
    """Hold the lock during a block.

    Raises:
        CommitError: Another command holds it.
    """
    content = _lock_content()
    if not store.create(_LOCK, content):
        _take_over(store, content)
    lock = DeletionLock(store, store.get_with_etag(_LOCK)[1])
    try:
        yield lock
    finally:
        lock.release()


def _take_over(store: ObjectStore, content: bytes) -> None:
    try:
        held, etag = store.get_with_etag(_LOCK)
    except ObjectMissing:
        raise CommitError("another `data gc` has just ended: run again") from None
    since = json.loads(store.unsealed(_LOCK, held).content)
    if _age(since) < _LOCK_EXPIRY or not store.replace(_LOCK, content, etag):
        raise CommitError(
            f"another `data gc` has been deleting since {since['since']}: wait until it has ended, or for "
            "10 minutes if it was killed"
        )


def _lock_content() -> bytes:
    return seal(_LOCK, json_bytes({"since": _now().isoformat(), "holder": uuid.uuid4().hex}))


def _age(stamped: dict[str, Any]) -> datetime.timedelta:
    return _now() - datetime.datetime.fromisoformat(stamped["since"])


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC).replace(microsecond=0)
