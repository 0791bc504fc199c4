"""Multipart upload of a large file: a failure costs one part, and no incomplete upload is left behind.

An upload that fails or is interrupted is aborted. That of a process that was killed is aborted by the next
upload of the same key, if it began so long ago that no process can still be working on it.
"""

import contextlib
import hashlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

from llava_av.storage.s3_client import PARTS_AT_ONCE, S3Client
from llava_av.storage.store_errors import StoreError, UploadGone
from llava_av.storage.transfer import map_parallel

__all__ = ["ABANDONED_AFTER", "PART_BYTES", "file_entity_tag", "send_in_parts"]

PART_BYTES = 8 << 20
ABANDONED_AFTER = timedelta(days=1)
"""Age at which an incomplete upload counts as abandoned."""
_MOST_PARTS = 10_000


def send_in_parts(
    remote: S3Client, key: str, path: Path, content_type: str, check: Callable[[], None]
) -> None:
    """Write an object from a file larger than `PART_BYTES`; arguments as for `ObjectStore.put_file`.

    If the upload no longer exists on completion, the file is sent once more: the answer to an earlier request
    was damaged or lost, or another process aborted the upload.

    Raises:
        StoreError: The store cannot be used, or the file changes during the upload.
    """
    _abort_abandoned(remote, key)
    try:
        _send(remote, key, path, content_type, check)
    except UploadGone:
        _send(remote, key, path, content_type, check)


def _abort_abandoned(remote: S3Client, key: str) -> None:
    # Keys with few permissions cannot list uploads, which must not prevent their own.
    with contextlib.suppress(StoreError):
        # The client has no public method for it.
        found = remote.call(
            key,
            lambda client: client._list_multipart_uploads(remote.settings.bucket, prefix=key),
            retry_s=0,
        )
        for upload in found.uploads:
            begun = upload.initiated_time
            if upload.object_name == key and begun and datetime.now(UTC) - begun >= ABANDONED_AFTER:
                remote.send("DELETE", key, query={"uploadId": upload.upload_id or ""}, retry_s=0)


def _send(remote: S3Client, key: str, path: Path, content_type: str, check: Callable[[], None]) -> None:
    upload = _begin(remote, key, content_type)
    try:
        spans = _spans(path.stat().st_size)
        send = partial(_send_part, remote, key, path, upload)
        tags = map_parallel(send, enumerate(spans, start=1), workers=PARTS_AT_ONCE)
        check()
        query = {"uploadId": upload}
        remote.send(
            "POST", key, query=query, body=_list_of(tags), headers={"Content-Type": "application/xml"}
        )
    except BaseException:
        # Also if the process is interrupted. Without retries: the store itself may have failed.
        with contextlib.suppress(StoreError):
            remote.send("DELETE", key, query={"uploadId": upload}, retry_s=0)
        raise


def _spans(size: int) -> list[tuple[int, int]]:
    """Return offset and length of each part of a file."""
    length = max(PART_BYTES, -(-size // _MOST_PARTS))
    return [(first, min(length, size - first)) for first in range(0, size, length)]


def file_entity_tag(path: Path) -> str:
    """Return the entity tag that S3 gives to an object that `ObjectStore.put_file` writes, without quotes.

    It is the MD5 of the content, or of the MD5s of the parts. Servers that encrypt objects with keys of a key
    service have other tags.

    Raises:
        OSError: The file cannot be read.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= PART_BYTES:
            return hashlib.file_digest(file, _md5).hexdigest()
        digests = [_md5(file.read(length)).digest() for _, length in _spans(size)]
    return f"{_md5(b''.join(digests)).hexdigest()}-{len(digests)}"


_md5 = partial(hashlib.md5, usedforsecurity=False)


def _begin(remote: S3Client, key: str, content_type: str) -> str:
    answer = remote.send("POST", key, query={"uploads": ""}, headers={"Content-Type": content_type})
    upload = ElementTree.fromstring(answer.body).findtext("{*}UploadId") if answer.body else None
    if not upload:
        raise StoreError(
            f"{remote.settings.endpoint} did not start a multipart upload of {key}: check the server"
        )
    return upload


def _send_part(remote: S3Client, key: str, path: Path, upload: str, part: tuple[int, tuple[int, int]]) -> str:
    number, (first, length) = part
    with path.open("rb") as file:
        file.seek(first)
        body = file.read(length)
    if len(body) != length:
        raise StoreError(f"{path} changed while it was sent to {key}: run again when it is complete")
    return remote.send("PUT", key, query={"partNumber": str(number), "uploadId": upload}, body=body).etag


def _list_of(tags: list[str]) -> bytes:
    root = ElementTree.Element("CompleteMultipartUpload")
    for number, tag in enumerate(tags, start=1):
        part = ElementTree.SubElement(root, "Part")
        ElementTree.SubElement(part, "PartNumber").text = str(number)
        ElementTree.SubElement(part, "ETag").text = tag
    return ElementTree.tostring(root)
