"""Listing of the objects of a bucket."""

import datetime
from collections.abc import Iterator
from dataclasses import dataclass

from minio import Minio

from llava_av.storage.s3_client import S3Client
from llava_av.storage.transport import DamagedAnswer

__all__ = ["ObjectInfo", "list_objects"]


@dataclass(frozen=True, kw_only=True)
class ObjectInfo:
    """Key, size in bytes, entity tag (without quotes) and time of the last write of one object."""

    key: str
    size: int
    etag: str
    modified: datetime.datetime | None = None


def list_objects(remote: S3Client, bucket: str, prefix: str) -> Iterator[ObjectInfo]:
    """Iterate over all objects of a bucket whose keys start with `prefix`, in the order of the keys.

    Raises:
        StoreError: The store cannot be listed; a repeated attempt continues after the last object found.
    """
    found: list[ObjectInfo] = []

    def list_rest(client: Minio) -> None:
        after = found[-1].key if found else None
        try:
            for item in client.list_objects(bucket, prefix, recursive=True, start_after=after):
                key, etag = item.object_name or "", (item.etag or "").strip('"')
                found.append(ObjectInfo(key=key, size=item.size or 0, etag=etag, modified=item.last_modified))
        except (ValueError, AttributeError) as error:
            raise DamagedAnswer(f"a list: {error}") from error

    remote.call(prefix, list_rest)
    return iter(found)
