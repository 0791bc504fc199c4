"""Download of an object range by range: every range is checked, and a failure costs one range.

A range is complete if its length equals the one in its headers. The entity tag of an object that was sent in
one piece is the MD5 of its content, unless the server encrypts it with a key of a key service or of the
client; content with another MD5 was damaged on the way. An object that was sent in parts has no such tag; its
readers know its SHA-256.
"""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from minio import Minio
from minio.error import S3Error
from urllib3 import BaseHTTPResponse

from llava_av.storage.s3_client import S3Client
from llava_av.storage.transport import DamagedAnswer

__all__ = ["Piece", "read_pieces", "read_range"]

_RANGE_BYTES = 16 << 20
_SSE = "x-amz-server-side-encryption"


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Some bytes of an object, the object's total size, and its entity tag without quotes."""

    data: bytes
    total: int
    etag: str


def read_pieces(remote: S3Client, key: str, *, compares: bool = True) -> Iterator[Piece]:
    """Yield an object's content in order, in at least one piece, all from the same version.

    Args:
        remote: Bucket of the object.
        key: Key of the object.
        compares: Compare the content with its entity tag; False if the caller knows a digest.

    Raises:
        ObjectMissing: The object does not exist.
        StoreError: The store cannot be used, or the object was replaced during the download.
    """
    reader = _Reader(remote.settings.bucket, key, compares=compares)
    while not reader.finished:
        yield remote.call(key, reader.read)


def read_range(remote: S3Client, key: str, offset: int, length: int) -> bytes:
    """Return `length` bytes of an object from `offset`, or fewer at its end; the caller compares a digest.

    Raises:
        ObjectMissing: The object does not exist.
        StoreError: The store cannot be used.
    """

    def read(client: Minio) -> bytes:
        try:
            response = client.get_object(remote.settings.bucket, key, offset=offset, length=length)
        except S3Error as error:
            if error.code == "InvalidRange":
                return b""
            raise
        return _piece(response, offset, length).data[:length]

    return remote.call(key, read)


class _Reader:
    """Position in an object that is being read; `read` may be called again after a failure."""

    def __init__(self, bucket: str, key: str, *, compares: bool) -> None:
        self._bucket, self._key, self._compares = bucket, key, compares
        self._done = 0
        self._etag = ""
        self._md5: Any = None
        self.finished = False

    def read(self, client: Minio) -> Piece:
        response = self._ask(client)
        piece = _piece(response, self._done, _RANGE_BYTES)
        md5 = self._check(response, piece)
        self._done += len(piece.data)
        self._etag, self._md5, self.finished = piece.etag, md5, self._done == piece.total
        return piece

    def _ask(self, client: Minio) -> BaseHTTPResponse:
        condition: dict[str, str | list[str] | tuple[str]] = (
            {"If-Match": f'"{self._etag}"'} if self._etag else {}
        )
        try:
            return client.get_object(
                self._bucket, self._key, offset=self._done, length=_RANGE_BYTES, request_headers=condition
            )
        except S3Error as error:
            if self._done or error.code != "InvalidRange":
                raise
            # An empty object has no first byte.
            return client.get_object(self._bucket, self._key)

    def _check(self, response: BaseHTTPResponse, piece: Piece) -> Any:
        """Return the digest of the content read so far; None if the entity tag is not such a digest."""
        is_md5 = re.fullmatch("[0-9a-f]{32}", piece.etag) and _is_plain(response)
        if not is_md5 or not self._compares:
            return None
        md5 = self._md5.copy() if self._md5 else hashlib.md5(usedforsecurity=False)
        md5.update(piece.data)
        if self._done + len(piece.data) == piece.total and md5.hexdigest() != piece.etag:
            raise DamagedAnswer(f"the content does not match its entity tag {piece.etag}")
        return md5


def _piece(response: BaseHTTPResponse, first: int, wanted: int) -> Piece:
    """Parse a response, and refuse it unless it is the complete range of `wanted` bytes from `first`."""
    data, etag = response.data or b"", response.headers.get("ETag", "").strip('"')
    if response.status != 206:
        if first:
            raise DamagedAnswer("the server returned another range than requested")
        return Piece(data=data, total=len(data), etag=etag)
    found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", response.headers.get("Content-Range", ""))
    start, last, total = map(int, found.groups()) if found else (-1, -1, -1)
    length = min(wanted, total - first)
    if (start, last, len(data)) != (first, first + length - 1, length):
        raise DamagedAnswer(f"{len(data)} bytes at offset {first}, but {length} were expected")
    return Piece(data=data, total=total, etag=etag)


def _is_plain(response: BaseHTTPResponse) -> bool:
    keyed = f"{_SSE}-customer-algorithm" in response.headers
    return not keyed and response.headers.get(_SSE, "AES256") == "AES256"
