"""Interface of the object store: one bucket as a key-value store with conditional writes."""

import contextlib
import hashlib
import json
import mimetypes
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from minio import Minio
from minio.commonconfig import CopySource
from minio.error import S3Error

from llava_av.files import whole_file
from llava_av.storage.listing import ObjectInfo, list_objects
from llava_av.storage.multipart import PART_BYTES, send_in_parts
from llava_av.storage.ranges import read_pieces, read_range
from llava_av.storage.s3_client import S3Client
from llava_av.storage.seals import SealBroken, Unsealed, json_bytes, seal, unseal
from llava_av.storage.store_errors import ObjectDamaged, ObjectMissing, StoreError, local_files
from llava_av.storage.store_settings import StoreSettings, read_settings

__all__ = ["ObjectStore"]

# The first request of a command may go to a server that does not run, and a person waits for the answer.
_QUICK_S = 3.0
_CONDITION_FAILED = (404, 412)


class ObjectStore:
    """One bucket. Methods raise `StoreError` with one line for the user and are thread-safe."""

    def __init__(self, settings: StoreSettings) -> None:
        """Use the bucket of `settings`, without sending a request."""
        self.settings = settings
        self.bucket = settings.bucket
        self.endpoint = settings.endpoint
        self._remote = S3Client(settings)

    @classmethod
    def from_env(cls, environment: Mapping[str, str] | None = None) -> "ObjectStore":
        """Use the store that the environment names (see `read_settings`)."""
        return cls(read_settings(environment))

    def in_bucket(self, bucket: str) -> "ObjectStore":
        """Return the store of another bucket of the same server, with the same keys."""
        return ObjectStore(replace(self.settings, bucket=bucket))

    def ensure_bucket(self) -> None:
        """Create the bucket unless it exists; an endpoint that does not answer is reported within seconds."""
        settings = self.settings
        quick = replace(
            settings, retry_s=min(settings.retry_s, _QUICK_S), stall_s=min(settings.stall_s, _QUICK_S)
        )
        S3Client(quick).call("", self._make_bucket)

    def _make_bucket(self, client: Minio) -> None:
        if client.bucket_exists(self.bucket):
            return
        try:
            client.make_bucket(self.bucket)
        except S3Error as error:
            if error.code not in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists"):
                raise

    def probe(self) -> None:
        """Write, read and delete one object to see that the server honours conditional writes.

        Raises:
            StoreError: It ignores `If-None-Match` or `If-Match`, so that two writers could both win.
        """
        key = f"probe/{uuid.uuid4().hex}"
        try:
            first, second = self.create(key, b"1"), self.create(key, b"2")
            _, etag = self.get_with_etag(key)
            wrong, right = self.replace(key, b"3", "0" * 32), self.replace(key, b"4", etag)
            kept = self.get_bytes(key)
        finally:
            self.delete(key)
        if (first, second, wrong, right, kept) != (True, False, False, True, b"4"):
            raise StoreError(
                f"the object store at {self.endpoint} does not honour If-None-Match and If-Match on writes: "
                "use one that does (AWS S3, MinIO or SeaweedFS of 2025 or later)"
            )

    def put_bytes(self, key: str, data: bytes) -> None:
        """Write an object, whatever was there."""
        self._remote.send("PUT", key, body=data, headers={"Content-Type": _content_type(key)})

    def put_file(self, key: str, path: Path, *, check: Callable[[], None] = lambda: None) -> None:
        """Write an object from a file, in parts when it is large.

        Args:
            key: Key of the object.
            path: The file.
            check: Called when the file has been read, before the object exists; if it raises an error,
                nothing is written.
        """
        if path.stat().st_size > PART_BYTES:
            send_in_parts(self._remote, key, path, _content_type(key), check)
        else:
            content = path.read_bytes()
            check()
            self.put_bytes(key, content)

    def copy_from(self, source: "ObjectStore", source_key: str, etag: str, key: str) -> str:
        """Copy an object of a bucket of the same server within the server, and return its new entity tag.

        Args:
            source: Store of the other bucket.
            source_key: Key of the object there.
            etag: Entity tag that the object must have.
            key: Key of the copy.

        Raises:
            StoreError: The object has another entity tag, or the server does not allow the copy.
        """

        def copy(client: Minio) -> str:
            origin = CopySource(source.bucket, source_key, match_etag=etag)
            return client.copy_object(self.bucket, key, origin).etag or ""

        return self._remote.call(key, copy).strip('"')

    def put_json(self, key: str, value: Any) -> None:
        """Write a value as sealed JSON with sorted keys."""
        self.put_sealed(key, json_bytes(value))

    def create_json(self, key: str, value: Any) -> bool:
        """Write a value as sealed JSON if there is no object with this key; False if there is one."""
        return self.create(key, seal(key, json_bytes(value)))

    def put_sealed(self, key: str, content: bytes) -> None:
        """Write an object with a checksum of its content inside (see `storage.seals`)."""
        self.put_bytes(key, seal(key, content))

    def create(self, key: str, data: bytes) -> bool:
        """Write an object if there is none with this key; False if there is one."""
        return self._put_if(key, data, {"If-None-Match": "*"})

    def replace(self, key: str, data: bytes, etag: str) -> bool:
        """Write an object if the stored one has this entity tag; False if it has another or is missing."""
        return self._put_if(key, data, {"If-Match": f'"{etag}"'})

    def _put_if(self, key: str, data: bytes, condition: dict[str, str]) -> bool:
        headers = {"Content-Type": _content_type(key), **condition}
        answer = self._remote.send("PUT", key, body=data, headers=headers, answers=_CONDITION_FAILED)
        # After a lost answer, the existing object may be the one that the previous attempt wrote.
        return answer.ok or (answer.repeated and self._holds(key, data))

    def _holds(self, key: str, data: bytes) -> bool:
        try:
            return self.get_bytes(key) == data
        except ObjectMissing:
            return False

    def get_bytes(self, key: str) -> bytes:
        """Return the content of an object.

        Raises:
            ObjectMissing: The object does not exist.
        """
        return self.get_with_etag(key)[0]

    def get_content(self, key: str, sha256: str) -> bytes | None:
        """Return the content of an object; None if it does not have a digest, also when it is read again.

        Raises:
            ObjectMissing: The object does not exist.
        """
        # The digest detects all damage that the entity tag would.
        for compares in (False, True):
            content = b"".join(piece.data for piece in read_pieces(self._remote, key, compares=compares))
            if hashlib.sha256(content).hexdigest() == sha256:
                return content
        return None

    def get_with_etag(self, key: str) -> tuple[bytes, str]:
        """Return the content of an object and its entity tag, for `replace`."""
        pieces = list(read_pieces(self._remote, key))
        return b"".join(piece.data for piece in pieces), pieces[0].etag

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        """Return `length` bytes of an object from `offset`, fewer at its end; the caller compares a digest.

        Raises:
            ObjectMissing: The object does not exist.
        """
        return read_range(self._remote, key, offset, length)

    def get_sealed(self, key: str) -> bytes:
        """Return the content of an object without its seal, verified if it has one.

        Raises:
            ObjectMissing: The object does not exist.
            ObjectDamaged: The content does not match its seal.
        """
        return self.unsealed(key, self.get_bytes(key)).content

    def unsealed(self, key: str, stored: bytes) -> Unsealed:
        """Verify and remove the seal of an object that was read.

        Raises:
            ObjectDamaged: The content does not match its seal.
        """
        try:
            return unseal(key, stored)
        except SealBroken:
            raise self.damaged(key) from None

    def damaged(self, key: str) -> ObjectDamaged:
        """Return the error for an object whose content does not match its checksum."""
        return ObjectDamaged(
            f"{self.uri(key)} at {self.endpoint} is damaged: its content does not match its checksum; "
            "restore it from a backup, or delete it and repeat the step that wrote it"
        )

    def get_json(self, key: str) -> Any:
        """Return the content of a JSON object, verified if it has a seal.

        Raises:
            ObjectMissing: The object does not exist.
            ObjectDamaged: The content does not match its seal, or is not JSON, as after a truncation.
        """
        content = self.get_sealed(key)
        try:
            return json.loads(content)
        except ValueError as error:
            raise ObjectDamaged(
                f"{self.uri(key)} at {self.endpoint} is damaged: it is not JSON ({error}); restore it from a "
                "backup, or delete it and repeat the step that wrote it"
            ) from error

    def find_json(self, key: str) -> Any | None:
        """Return the content of a JSON object; None if it does not exist.

        Raises:
            ObjectDamaged: As `get_json`.
        """
        try:
            return self.get_json(key)
        except ObjectMissing:
            return None

    def get_file(self, key: str, path: Path, *, sha256: str | None = None) -> str:
        """Download an object to a file, atomically; return the SHA-256 of its content.

        Args:
            key: Key of the object.
            path: File to write; its folder is created if necessary.
            sha256: Expected digest. Content with another digest may have been damaged on the way and is read
                once more; the caller compares the returned digest.
        """
        digest = self._download(key, path)[0]
        return digest if sha256 in (None, digest) else self._download(key, path)[0]

    def get_file_with_etag(self, key: str, path: Path) -> tuple[str, str]:
        """Download an object to a file, atomically; return SHA-256 and entity tag of the same version."""
        return self._download(key, path)

    def _download(self, key: str, path: Path) -> tuple[str, str]:
        digest = hashlib.sha256()
        pieces = read_pieces(self._remote, key)
        with local_files(path):
            first = next(pieces)
            with whole_file(path) as part, part.open("wb") as file:
                for piece in chain((first,), pieces):
                    digest.update(piece.data)
                    file.write(piece.data)
        return digest.hexdigest(), first.etag

    def sha256(self, key: str) -> str:
        """Read an object and return the SHA-256 of its content.

        Raises:
            ObjectMissing: The object does not exist.
        """
        digest = hashlib.sha256()
        for piece in read_pieces(self._remote, key):
            digest.update(piece.data)
        return digest.hexdigest()

    def exists(self, key: str) -> bool:
        """Check whether an object exists."""
        return self.find(key) is not None

    def find(self, key: str) -> ObjectInfo | None:
        """Return size and entity tag of an object; None if it does not exist."""
        try:
            found = self._remote.call(key, lambda client: client.stat_object(self.bucket, key))
        except ObjectMissing:
            return None
        return ObjectInfo(key=key, size=found.size or 0, etag=(found.etag or "").strip('"'))

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Iterate over all objects whose keys start with `prefix`, in the order of the keys."""
        return list_objects(self._remote, self.bucket, prefix)

    def delete(self, key: str) -> None:
        """Delete an object if it exists."""
        with contextlib.suppress(ObjectMissing):
            self._remote.call(key, lambda client: client.remove_object(self.bucket, key))

    def uri(self, key: str) -> str:
        """Return the URI of an object, s3://BUCKET/KEY."""
        return f"s3://{self.bucket}/{key}"

    def address(self, key: str) -> str:
        """Return the URI of an object with that of its server, which together identify it everywhere."""
        return f"{self.endpoint} {self.uri(key)}"

    def key(self, uri: str) -> str:
        """Return the key of an object of this bucket from its URI.

        Raises:
            StoreError: The URI names another bucket, or is not such a URI.
        """
        prefix = self.uri("")
        if not uri.startswith(prefix) or uri == prefix:
            raise StoreError(f"{uri} is not in this store: expected {prefix}KEY, or set LLAVA_AV_BUCKET")
        return uri.removeprefix(prefix)


def _content_type(key: str) -> str:
    return mimetypes.guess_type(key)[0] or "application/octet-stream"
