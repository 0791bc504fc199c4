"""One S3 bucket as a key-value store with conditional writes."""

from llava_av.storage.errors import ObjectDamaged, ObjectMissing, StoreError
from llava_av.storage.settings import StoreSettings, read_settings
from llava_av.storage.store import ObjectInfo, ObjectStore
from llava_av.storage.transfer import file_sha256, map_parallel

__all__ = [
    "ObjectDamaged",
    "ObjectInfo",
    "ObjectMissing",
    "ObjectStore",
    "StoreError",
    "StoreSettings",
    "file_sha256",
    "map_parallel",
    "read_settings",
]
