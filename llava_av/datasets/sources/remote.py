"""Datasets whose conversations and media are already in S3: a prefix of a bucket.

The check of a media file downloads it once, to a temporary file, which is hashed, decoded and deleted.
Digests are remembered by address and entity tag, so a later commit downloads only new versions.

The content reaches the blobs of a commit within the server if the prefix is in the store of the commits, on
the condition that the entity tag is that of the version that was hashed. If the server does not allow that,
or if the prefix is in another store, it passes through a temporary file.
"""

import contextlib
import os
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath

from llava_av.datasets.blob_sources import Source
from llava_av.datasets.file_cache import FileCache
from llava_av.datasets.manifest import CommitError, FileEntry, blob_key, safe_path
from llava_av.datasets.media_checks import CheckedMedia, MediaChecks
from llava_av.datasets.ranges import FileRow
from llava_av.datasets.sources.file_checks import CheckedFile, FileCheck, outside
from llava_av.datasets.sources.folder import FolderScan, scan_rows
from llava_av.datasets.sources.rows import CONVERSATIONS, DatasetError, Rows, choose_file, read_rows
from llava_av.datasets.uploads import has_digest
from llava_av.media.info import MediaError, UnreadableError
from llava_av.processes.progress import ProgressCallback
from llava_av.storage import (
    ObjectInfo,
    ObjectMissing,
    ObjectStore,
    StoreError,
    file_entity_tag,
    read_settings,
)
from llava_av.storage.store_errors import local_files

__all__ = ["SCHEME", "RemoteFolder", "remote_folder"]

SCHEME = "s3://"
"""Start of the address of a prefix."""
# Variables of another server, without this part, have the names that `read_settings` reads.
_OTHER = "LLAVA_AV_SOURCE_"


def remote_folder(
    uri: str, target: ObjectStore, environment: Mapping[str, str] | None = None
) -> "RemoteFolder":
    """Return the prefix that a URI names.

    Args:
        uri: `s3://BUCKET/PREFIX`.
        target: Store of the commits, in which the bucket is, unless `LLAVA_AV_SOURCE_AWS_ENDPOINT_URL_S3`
            names another server.
        environment: Variables to read; those of this process if None.

    Raises:
        DatasetError: The text is not such a URI.
        StoreError: The variables of the other server are incomplete.
    """
    variables = os.environ if environment is None else environment
    bucket, _, prefix = uri.removeprefix(SCHEME).partition("/")
    if not uri.startswith(SCHEME) or not bucket:
        raise DatasetError(f"{uri} is not the address of a prefix: give s3://BUCKET/PREFIX")
    other = {name.removeprefix(_OTHER): value for name, value in variables.items() if name.startswith(_OTHER)}
    try:
        store = target if not other else ObjectStore(read_settings(other))
    except StoreError as error:
        raise StoreError(f"variables that begin with {_OTHER}: {error}") from None
    prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
    return RemoteFolder(store=store.in_bucket(bucket), prefix=prefix, target=target)


@dataclass(frozen=True, kw_only=True)
class RemoteFolder:
    """A prefix with conversations and media."""

    store: ObjectStore
    """Bucket of the prefix."""
    prefix: str
    """Start of all keys, with a slash at its end; empty for a whole bucket."""
    target: ObjectStore
    """Store of the commits."""

    def __str__(self) -> str:
        """Return the URI."""
        return self.store.uri(self.prefix).rstrip("/")

    @property
    def name(self) -> str:
        """Last part of the prefix, or the bucket."""
        return PurePosixPath(self.prefix).name or self.store.bucket

    def read(self, progress: ProgressCallback | None, checks: MediaChecks) -> FolderScan:
        """Read the conversations, and every media file that they name, as `read_folder` does.

        Raises:
            DatasetError: The prefix has no conversations or no usable sample.
            StoreError: The object store or the disk cannot be used.
        """
        with self.opened(checks) as (rows, check):
            return scan_rows(rows, str(self), check, progress, cache=checks.cache)

    @contextlib.contextmanager
    def opened(self, checks: MediaChecks) -> Iterator[tuple[Rows, FileCheck]]:
        """Yield the rows, and the check of media files; errors as for `read`."""
        objects = {info.key.removeprefix(self.prefix): info for info in self.store.list(self.prefix)}
        with _temporary_folder() as home:
            check = partial(self._check, objects, home, checks)
            yield self._rows(objects, home), FileCheck(result=check, is_short=lambda name: False)

    def sources(self, cache: FileCache, rows: Iterable[FileRow]) -> Iterator[Source]:
        """Yield the sources of media files.

        Args:
            cache: Cache of their scan, which knows the versions of its files.
            rows: The files as they were checked.
        """
        objects = {info.key.removeprefix(self.prefix): info for info in self.store.list(self.prefix)}
        return (self._source(row.path, row.sha256, objects.get(row.path), cache) for row in rows)

    def _rows(self, objects: Mapping[str, ObjectInfo], home: Path) -> Rows:
        name, found = choose_file(path for path in objects if "/" not in path)
        if name is None:
            advice = f": keep one of {', '.join(found[:3])}" if found else ": upload one"
            raise DatasetError(f"{self} has no {CONVERSATIONS} with the samples{advice}")
        local = home / name
        self.store.get_file(f"{self.prefix}{name}", local)
        return replace(read_rows(local), path=Path(name))

    def _check(
        self, objects: Mapping[str, ObjectInfo], home: Path, checks: MediaChecks, name: str
    ) -> CheckedFile | str:
        """Check a media file; return the result or the reason why it cannot be used."""
        if reason := outside(name):
            return reason
        try:
            found = objects.get(safe_path(name))
        except ValueError as error:
            return f"is not a usable path: {error}"
        if found is None:
            return "no such object"
        if found.size == 0:
            return "is empty (0 bytes)"
        digest = checks.cache.object_digest(self._address(found), found.etag)
        try:
            known = None if digest is None else checks.known(Path(name), digest)
        except MediaError as error:
            return error.reason
        if digest is not None and known is not None:
            return _result(known, digest, found)
        return self._read(found, home, checks)

    def _read(self, found: ObjectInfo, home: Path, checks: MediaChecks) -> CheckedFile | str:
        local = home / f"{uuid.uuid4().hex}{PurePosixPath(found.key).suffix}"
        try:
            sha256, etag = self.store.get_file_with_etag(found.key, local)
            if etag != found.etag:
                return "was replaced during the commit; commit again"
            return self._checked(local, sha256, found, checks)
        except ObjectMissing:
            return "no such object"
        finally:
            local.unlink(missing_ok=True)

    def _checked(self, local: Path, sha256: str, found: ObjectInfo, checks: MediaChecks) -> CheckedFile | str:
        """Check a downloaded object, and remember its digest when it need not be downloaded again."""
        try:
            checked = checks.check_own(local, sha256)
            if not self._is_same_server:
                self._send(local, sha256, checks.cache)
        except UnreadableError as error:
            return error.reason
        except MediaError as error:
            checks.cache.remember_digest(self._address(found), found.etag, sha256)
            return error.reason
        checks.cache.remember_digest(self._address(found), found.etag, sha256)
        return _result(checked, sha256, found)

    @property
    def _is_same_server(self) -> bool:
        return self.store.endpoint == self.target.endpoint

    def _address(self, found: ObjectInfo) -> str:
        return self.store.address(found.key)

    def _source(self, path: str, sha256: str, found: ObjectInfo | None, cache: FileCache) -> Source:
        if found is None or cache.object_digest(self._address(found), found.etag) != sha256:
            raise CommitError(
                f"{self}/{path} changed during the commit: commit again when no program writes to it"
            )
        return Source(
            path=path,
            entry=FileEntry(sha256=sha256, bytes=found.size),
            content=partial(self.store.get_bytes, found.key),
            transfer=partial(self._transfer, found, sha256, cache),
        )

    def _transfer(self, found: ObjectInfo, sha256: str, cache: FileCache) -> int | None:
        """Write the blob of an object and return its size; None if the store has it."""
        if self._is_stored(sha256, found.size, cache):
            return None
        if self._is_same_server:
            with contextlib.suppress(StoreError):
                # Not allowed between these buckets, or not offered: the content is sent instead.
                etag = self.target.copy_from(self.store, found.key, found.etag, blob_key(sha256))
                cache.remember_verified(self.target.address(blob_key(sha256)), etag)
                return found.size
        with _temporary_folder() as home:
            local = home / "blob"
            if self.store.get_file(found.key, local, sha256=sha256) != sha256:
                raise CommitError(
                    f"{self.store.uri(found.key)} changed during the commit: commit again when no program "
                    "writes to it"
                )
            self._send(local, sha256, cache)
        return found.size

    def _send(self, local: Path, sha256: str, cache: FileCache) -> None:
        """Write a blob from a file unless the store has it."""
        key = blob_key(sha256)
        stored = self.target.find(key)
        if stored is None or stored.etag != file_entity_tag(local):
            self.target.put_file(key, local)
            stored = self.target.find(key)
        if stored is not None:
            cache.remember_verified(self.target.address(blob_key(sha256)), stored.etag)

    def _is_stored(self, sha256: str, size: int, cache: FileCache) -> bool:
        stored = self.target.find(blob_key(sha256))
        if stored is None or stored.size != size:
            return False
        return has_digest(self.target, stored, sha256, cache)


def _result(checked: CheckedMedia, sha256: str, found: ObjectInfo) -> CheckedFile:
    return CheckedFile(info=checked.info, sha256=sha256, bytes=found.size, decoded=checked.decoded)


@contextlib.contextmanager
def _temporary_folder() -> Iterator[Path]:
    folder = Path(tempfile.gettempdir())
    with local_files(folder / "llava-av"), tempfile.TemporaryDirectory(prefix="llava-av-") as home:
        yield Path(home)
