"""The object store: plain operations through the minio client, conditional ones through presigned URLs."""

import base64
import hashlib
import io
import json
import mimetypes
import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import certifi
import urllib3
from minio import Minio
from minio.credentials.providers import IamAwsProvider, Provider
from minio.error import S3Error

from llava_av.storage.errors import ObjectDamaged, ObjectMissing, StoreError, local_files, store_failures
from llava_av.storage.seals import SealBroken, Unsealed, json_bytes, seal, unseal
from llava_av.storage.settings import StoreSettings, read_settings
from llava_av.storage.transfer import WORKERS

__all__ = ["ObjectInfo", "ObjectStore"]

_CHUNK_BYTES = 1 << 20
# Every thread may send three parts of a multipart upload at once (the client's default).
_CONNECTIONS = 3 * WORKERS
_CONNECT_S, _READ_S, _QUICK_READ_S = 3.0, 60.0, 4.0
_PRESIGNED_FOR = timedelta(minutes=15)
# 409: AWS answers so when two conditional writes meet.
_CONDITION_FAILED = (404, 409, 412)


@dataclass(frozen=True, kw_only=True)
class ObjectInfo:
    """Key, size in bytes and entity tag (without quotes) of one object."""

    key: str
    size: int
    etag: str


def _connection_pool(read_s: float, read_again: int) -> urllib3.PoolManager:
    # At most 2 attempts to connect: an endpoint that is not there is reported within 7 s.
    retries = urllib3.Retry(
        total=2,
        connect=1,
        read=read_again,
        status=2,
        backoff_factor=0.2,
        status_forcelist=(500, 502, 503, 504),
        raise_on_status=False,
    )
    return urllib3.PoolManager(
        maxsize=_CONNECTIONS,
        timeout=urllib3.Timeout(connect=_CONNECT_S, read=read_s),
        retries=retries,
        cert_reqs="CERT_REQUIRED",
        ca_certs=os.environ.get("SSL_CERT_FILE") or certifi.where(),
    )


class ObjectStore:
    """One bucket. Methods raise `StoreError`, one line for the user, and may be called from any thread."""

    def __init__(self, settings: StoreSettings) -> None:
        """Use the bucket of `settings`; nothing is sent yet."""
        self.settings = settings
        self.bucket = settings.bucket
        self.endpoint = settings.endpoint
        self._pool = _connection_pool(_READ_S, read_again=1)
        self._client = self._make_client(self._pool)

    @classmethod
    def from_env(cls, environment: Mapping[str, str] | None = None) -> "ObjectStore":
        """Use the store that the environment names (see `read_settings`)."""
        return cls(read_settings(environment))

    def _make_client(self, pool: urllib3.PoolManager) -> Minio:
        settings = self.settings
        with self._failures():
            return Minio(
                settings.host,
                access_key=settings.access_key,
                secret_key=settings.secret_key,
                session_token=settings.session_token,
                credentials=None if settings.access_key else self._identity(pool),
                secure=settings.secure,
                region=settings.region,
                http_client=pool,
            )

    def _identity(self, pool: urllib3.PoolManager) -> Provider:
        settings = self.settings
        return IamAwsProvider(custom_endpoint=settings.sts_endpoint, region=settings.region, http_client=pool)

    def _failures(self, key: str = "") -> AbstractContextManager[None]:
        return store_failures(self.endpoint, self.bucket, key)

    def ensure_bucket(self) -> None:
        """Make the bucket unless it exists."""
        client = self._make_client(_connection_pool(_QUICK_READ_S, read_again=0))
        with self._failures():
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
        with self._failures(key):
            self._client.put_object(
                self.bucket, key, io.BytesIO(data), len(data), content_type=_content_type(key)
            )

    def put_file(self, key: str, path: Path) -> None:
        """Write an object from a file, in parts when it is large."""
        with self._failures(key):
            self._client.fput_object(self.bucket, key, str(path), content_type=_content_type(key))

    def put_json(self, key: str, value: Any) -> None:
        """Write a value as sealed JSON with sorted keys."""
        self.put_sealed(key, json_bytes(value))

    def create_json(self, key: str, value: Any) -> bool:
        """Write a value as sealed JSON if there is no object with this key; False if there is one."""
        return self.create(key, seal(key, json_bytes(value)))

    def put_sealed(self, key: str, content: bytes) -> None:
        """Write an object that carries a checksum of its content (see `storage.seals`)."""
        self.put_bytes(key, seal(key, content))

    def create(self, key: str, data: bytes) -> bool:
        """Write an object if there is none with this key; False if there is one."""
        return self._put_if(key, data, {"If-None-Match": "*"})

    def replace(self, key: str, data: bytes, etag: str) -> bool:
        """Write an object if the present one has this entity tag; False if it has another or is missing."""
        return self._put_if(key, data, {"If-Match": f'"{etag}"'})

    def _put_if(self, key: str, data: bytes, condition: dict[str, str]) -> bool:
        # The client has no conditional write: its `metadata` would become user metadata and both would win.
        digest = base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()
        headers = {"Content-MD5": digest, "Content-Type": _content_type(key), **condition}
        with self._failures(key):
            url = self._client.get_presigned_url("PUT", self.bucket, key, expires=_PRESIGNED_FOR)
            response = self._pool.request("PUT", url, body=data, headers=headers)
            if response.status in (200, 204):
                return True
            is_xml = response.data.lstrip().startswith(b"<")
            error = S3Error.fromxml(response) if is_xml else None
            if response.status in _CONDITION_FAILED and (error is None or error.code != "NoSuchBucket"):
                return False
            if error is not None:
                raise error
        raise StoreError(f"the object store at {self.endpoint} answered HTTP {response.status} to a write")

    def get_bytes(self, key: str) -> bytes:
        """Content of an object.

        Raises:
            ObjectMissing: There is none.
        """
        return self.get_with_etag(key)[0]

    def get_with_etag(self, key: str) -> tuple[bytes, str]:
        """Content of an object, and its entity tag for `replace`."""
        with self._failures(key):
            response = self._client.get_object(self.bucket, key)
            try:
                return response.read(), response.headers.get("ETag", "").strip('"')
            finally:
                response.close()
                response.release_conn()

    def get_sealed(self, key: str) -> bytes:
        """Return the content of an object without its seal; one without a seal as it is.

        Raises:
            ObjectMissing: There is none.
            ObjectDamaged: It does not match its seal.
        """
        return self.unsealed(key, self.get_bytes(key)).content

    def unsealed(self, key: str, stored: bytes) -> Unsealed:
        """Check the seal of an object that was read, and take it off.

        Raises:
            ObjectDamaged: It does not match its seal.
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
        """Content of an object as JSON, verified if it has a seal.

        Raises:
            ObjectMissing: There is none.
            ObjectDamaged: It does not match its seal.
            StoreError: It is not JSON.
        """
        content = self.get_sealed(key)
        try:
            return json.loads(content)
        except ValueError as error:
            raise StoreError(f"{self.uri(key)} at {self.endpoint} is not JSON: {error}") from error

    def find_json(self, key: str) -> Any | None:
        """The value of a JSON object; None if there is no such object.

        Raises:
            StoreError: the object is not JSON.
        """
        try:
            return self.get_json(key)
        except ObjectMissing:
            return None

    def get_file(self, key: str, path: Path) -> str:
        """Copy an object to a file, which appears whole or not at all; return the SHA-256 of its content."""
        digest = hashlib.sha256()
        part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
        with self._failures(key), local_files(path):
            response = self._client.get_object(self.bucket, key)
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                with part.open("wb") as file:
                    for chunk in response.stream(_CHUNK_BYTES):
                        digest.update(chunk)
                        file.write(chunk)
                part.replace(path)
            finally:
                response.close()
                response.release_conn()
                part.unlink(missing_ok=True)
        return digest.hexdigest()

    def exists(self, key: str) -> bool:
        """Whether there is an object with this key."""
        try:
            with self._failures(key):
                self._client.stat_object(self.bucket, key)
        except ObjectMissing:
            return False
        return True

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Yield every object whose key begins with `prefix`, in the order of the keys."""
        with self._failures(prefix):
            for item in self._client.list_objects(self.bucket, prefix=prefix, recursive=True):
                etag = (item.etag or "").strip('"')
                yield ObjectInfo(key=item.object_name or "", size=item.size or 0, etag=etag)

    def delete(self, key: str) -> None:
        """Delete an object; a key without one is fine."""
        with self._failures(key):
            self._client.remove_object(self.bucket, key)

    def uri(self, key: str) -> str:
        """Name of an object that holds outside this store: s3://BUCKET/KEY."""
        return f"s3://{self.bucket}/{key}"

    def key(self, uri: str) -> str:
        """Key of an object of this bucket from its `uri`.

        Raises:
            StoreError: It names another bucket, or is no such name.
        """
        prefix = self.uri("")
        if not uri.startswith(prefix) or uri == prefix:
            raise StoreError(f"{uri} is not in this store: expected {prefix}KEY, or set LLAVA_AV_BUCKET")
        return uri.removeprefix(prefix)


def _content_type(key: str) -> str:
    return mimetypes.guess_type(key)[0] or "application/octet-stream"
