"""Multipart upload of a large file: a failure costs one part, and no incomplete upload is left behind."""

import contextlib
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

from llava_av.storage.s3_client import PARTS_AT_ONCE, Remote
from llava_av.storage.store_errors import StoreError, UploadGone
from llava_av.storage.transfer import map_parallel

__all__ = ["PART_BYTES", "send_in_parts"]

PART_BYTES = 8 << 20
_MOST_PARTS = 10_000


def send_in_parts(remote: Remote, key: str, path: Path, content_type: str) -> None:
    """Write an object from a file larger than `PART_BYTES`.

    If the upload no longer exists on completion, the file is sent once more: the answer to an earlier request
    was damaged or lost, or another process aborted the upload.

    Raises:
        StoreError: The store cannot be used, or the file changes during the upload.
    """
    try:
        _send(remote, key, path, content_type)
    except UploadGone:
        _send(remote, key, path, content_type)


def _send(remote: Remote, key: str, path: Path, content_type: str) -> None:
    upload = _begin(remote, key, content_type)
    try:
        size = path.stat().st_size
        length = max(PART_BYTES, -(-size // _MOST_PARTS))
        spans = [(first, min(length, size - first)) for first in range(0, size, length)]
        send = partial(_send_part, remote, key, path, upload)
        tags = map_parallel(send, enumerate(spans, start=1), workers=PARTS_AT_ONCE)
        query = {"uploadId": upload}
        remote.send(
            "POST", key, query=query, body=_list_of(tags), headers={"Content-Type": "application/xml"}
        )
    except BaseException:
        # Also if the process is interrupted. Without retries: the store itself may have failed.
        with contextlib.suppress(StoreError):
            remote.send("DELETE", key, query={"uploadId": upload}, retry_s=0)
        raise


def _begin(remote: Remote, key: str, content_type: str) -> str:
    answer = remote.send("POST", key, query={"uploads": ""}, headers={"Content-Type": content_type})
    upload = ElementTree.fromstring(answer.body).findtext("{*}UploadId") if answer.body else None
    if not upload:
        raise StoreError(
            f"{remote.settings.endpoint} did not start a multipart upload of {key}: check the server"
        )
    return upload


def _send_part(remote: Remote, key: str, path: Path, upload: str, part: tuple[int, tuple[int, int]]) -> str:
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
