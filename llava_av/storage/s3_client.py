"""Signed requests to one bucket, retried as `llava_av.storage.retrying` defines.

The minio client signs, lists and reads. Content is written through presigned URLs, because the client has no
conditional writes (its `metadata` would become user metadata, and two writers would both succeed), does not
retry POST requests, and sends a digest of the body that some servers do not verify. All servers verify
`Content-MD5`.
"""

import base64
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

from minio import Minio
from minio.credentials.providers import IamAwsProvider, Provider
from minio.error import InvalidResponseError, S3Error
from urllib3 import BaseHTTPResponse

from llava_av.storage.retrying import retry
from llava_av.storage.store_errors import store_failures
from llava_av.storage.store_settings import StoreSettings
from llava_av.storage.transfer import WORKERS
from llava_av.storage.transport import WholePool

__all__ = ["PARTS_AT_ONCE", "Answer", "S3Client"]

PARTS_AT_ONCE = 3
"""Parts of one file that are sent at the same time."""
_PRESIGNED_FOR = timedelta(minutes=15)

_Result = TypeVar("_Result")


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A server's answer to `S3Client.send`."""

    ok: bool
    """True if the request succeeded; False for a status that the caller accepts as an answer."""
    body: bytes
    etag: str
    """Entity tag, with its quotes."""
    repeated: bool
    """True after a retry: the first attempt may have succeeded although its answer was lost."""


class S3Client:
    """One bucket; methods raise `StoreError` and may be called from any thread."""

    def __init__(self, settings: StoreSettings) -> None:
        """Use the bucket of `settings`, without sending a request."""
        self.settings = settings
        self._pool = WholePool(settings.stall_s, PARTS_AT_ONCE * WORKERS)
        with store_failures(settings.endpoint, settings.bucket):
            self._client = Minio(
                settings.host,
                access_key=settings.access_key,
                secret_key=settings.secret_key,
                session_token=settings.session_token,
                credentials=None if settings.access_key else self._identity(),
                secure=settings.secure,
                region=settings.region,
                http_client=self._pool,
            )

    def _identity(self) -> Provider:
        settings = self.settings
        return IamAwsProvider(
            custom_endpoint=settings.sts_endpoint, region=settings.region, http_client=self._pool
        )

    def call(
        self, key: str, operation: Callable[[Minio], _Result], *, retry_s: float | None = None
    ) -> _Result:
        """Call an idempotent `operation` with the client, and retry it after transient failures.

        Args:
            key: Key of the object concerned, or the prefix of a listing.
            operation: Function that may be called several times.
            retry_s: Seconds for which it is retried; None: those of the settings.
        """

        def attempt() -> _Result:
            with store_failures(self.settings.endpoint, self.settings.bucket, key):
                return operation(self._client)

        return retry(attempt, self.settings.retry_s if retry_s is None else retry_s)

    def send(
        self,
        method: str,
        key: str,
        *,
        query: Mapping[str, str] | None = None,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        answers: tuple[int, ...] = (),
        retry_s: float | None = None,
    ) -> Answer:
        """Send one request about an object; each attempt is signed again.

        Args:
            method: HTTP method.
            key: Key of the object.
            query: Query parameters, such as `uploadId`.
            body: Content, sent with its digest.
            headers: Further headers, which are not signed.
            answers: Error statuses that are returned as an answer instead of raised.
            retry_s: As for `call`.
        """
        sent = dict(headers or {})
        if body or method == "PUT":
            md5 = hashlib.md5(body, usedforsecurity=False).digest()
            sent["Content-MD5"] = base64.b64encode(md5).decode()
        attempts = 0

        def operation(client: Minio) -> Answer:
            nonlocal attempts
            attempts += 1
            # A copy: the client adds parameters.
            url = client.get_presigned_url(
                method, self.settings.bucket, key, _PRESIGNED_FOR, extra_query_params=dict(query or {})
            )
            response = self._pool.request(method, url, body=body, headers=sent)
            return _answer(response, answers, repeated=attempts > 1)

        return self.call(key, operation, retry_s=retry_s)


def _answer(response: BaseHTTPResponse, answers: tuple[int, ...], *, repeated: bool) -> Answer:
    error = _error(response)
    # 404 is an answer only if it is about the object, not about the bucket or from another web server.
    foreign = response.status == 404 and (error is None or error.code == "NoSuchBucket")
    taken = response.status in answers and not foreign
    if error is not None and not taken:
        raise error
    if response.status not in (200, 204) and not taken:
        kind = response.headers.get("Content-Type", "")
        raise InvalidResponseError(response.status, kind, response.data.decode(errors="replace"))
    etag = response.headers.get("ETag", "")
    return Answer(ok=not taken, body=response.data, etag=etag, repeated=repeated)


def _error(response: BaseHTTPResponse) -> S3Error | None:
    """Return the error in an answer; the completion of an upload may contain one with status 200."""
    body = response.data.lstrip()
    return S3Error.fromxml(response) if body.startswith(b"<") and b"<Error" in body[:200] else None
