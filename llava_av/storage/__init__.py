"""One S3 bucket as a key-value store with conditional writes.

`store` is the interface: an `ObjectStore` reads, writes, lists and deletes objects. `store_settings` reads
the endpoint, the bucket and the credentials from the environment; `access_keys` reads and writes credentials
in a file, and `sts` requests temporary ones.

Below it, `s3_client` signs and sends requests, `retrying` repeats them after transient failures, and
`transport` is the HTTP layer, which aborts stalled transfers. `ranges` downloads an object in verified
ranges, `multipart` uploads a large file in parts, `listing` lists objects, and `transfer` runs many
transfers in parallel. `seals` adds checksums to the content of objects. `store_errors` turns every failure
into one line for the user.
"""

from llava_av.storage.listing import ObjectInfo
from llava_av.storage.multipart import file_entity_tag
from llava_av.storage.store import ObjectStore
from llava_av.storage.store_errors import ObjectDamaged, ObjectMissing, StoreError
from llava_av.storage.store_settings import StoreSettings, read_settings
from llava_av.storage.transfer import file_sha256, map_parallel

__all__ = [
    "ObjectDamaged",
    "ObjectInfo",
    "ObjectMissing",
    "ObjectStore",
    "StoreError",
    "StoreSettings",
    "file_entity_tag",
    "file_sha256",
    "map_parallel",
    "read_settings",
]
