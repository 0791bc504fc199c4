"""Errors of an object store, each as one line that says what to do."""

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path
from ssl import SSLEOFError
from xml.etree.ElementTree import ParseError

from minio.error import InvalidResponseError, MinioException, S3Error, ServerError
from urllib3 import Retry, exceptions

from llava_av.errors import UserError
from llava_av.redaction import redact_line
from llava_av.storage.transport import FLOOR_BYTES_PER_S, DamagedAnswer, TooSlow

__all__ = [
    "ObjectDamaged",
    "ObjectMissing",
    "StoreError",
    "UploadGone",
    "describe_failure",
    "local_files",
    "status_of",
    "store_failures",
]

_REFUSED = {"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "AllAccessDisabled"}
_EXPIRED = {"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"}
_MISSING = {"NoSuchKey", "NoSuchVersion", "ResourceNotFound"}
_FULL = {"XMinioStorageFull", "InsufficientStorage", "QuotaExceeded", "XMinioAdminBucketQuotaExceeded"}
# Transient errors with a misleading HTTP status: the server is busy, or bytes were damaged or truncated on
# the way to it. CompleteMultipartUpload reports a failure in an answer with status 200.
_TRANSIENT = {
    "BadDigest",
    "ConditionalRequestConflict",
    "IncompleteBody",
    "InternalError",
    "InvalidDigest",
    "OperationAborted",
    "RequestTimeout",
    "ServiceUnavailable",
    "SlowDown",
    "XAmzContentSHA256Mismatch",
}
_BUSY = (408, 429)
_LONGEST_RETRY_AFTER_S = 60.0
_UNUSABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG)
_KEYS = "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and that this key may read and write"
_ENDPOINT = "check AWS_ENDPOINT_URL_S3"


class StoreError(UserError):
    """Unusable object store; the message names it and the action to take."""

    retry_after_s: float = 0.0
    """Seconds that the server requests to wait before the next request."""


class ObjectMissing(StoreError):
    """No object has the requested key."""


class UploadGone(StoreError):
    """Multipart upload that no longer exists."""


class ObjectDamaged(StoreError):
    """An object whose content does not match its checksum."""


@contextlib.contextmanager
def store_failures(endpoint: str, bucket: str, key: str = "") -> Iterator[None]:
    """Convert errors of the client library inside the block to `StoreError` or `ObjectMissing`."""
    try:
        yield
    except (MinioException, exceptions.HTTPError) as error:
        raise describe_failure(error, endpoint, bucket, key) from error
    except (ParseError, UnicodeDecodeError) as error:
        raise describe_failure(DamagedAnswer(str(error)), endpoint, bucket, key) from error
    except ValueError as error:
        where = f"s3://{bucket}/{key}"
        raise StoreError(f"the object store at {endpoint} cannot hold {where}: {error}") from error


@contextlib.contextmanager
def local_files(path: Path) -> Iterator[None]:
    """Convert the errors of a full disk and of a `path` that cannot be written to `StoreError`."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoreError(f"no space left on the disk of {path.parent}: free space, run again") from error
        if error.errno in _UNUSABLE:
            raise StoreError(f"cannot write {path}: {error.strerror}") from error
        raise


def status_of(error: Exception) -> int:
    """Return the HTTP status of a client library's error; 0 if it has none."""
    if isinstance(error, S3Error):
        return int(error.response.status)
    if isinstance(error, ServerError):
        return error.status_code
    return int(error._code) if isinstance(error, InvalidResponseError) else 0


def describe_failure(error: Exception, endpoint: str, bucket: str, key: str) -> StoreError:
    """Return the `StoreError` that explains `error` to a user, with the object's key if there is one."""
    if isinstance(error, exceptions.HTTPError):
        described = _of_transport(error, endpoint)
    elif isinstance(error, S3Error):
        described = _of_code(error, endpoint, bucket, key)
    else:
        described = _of_status(status_of(error), str(error), endpoint)
    where = f"s3://{bucket}/{key}"
    if key and where not in str(described):
        described.args = (f"{where}: {described}",)
    return described


def _of_code(error: S3Error, endpoint: str, bucket: str, key: str) -> StoreError:
    where, status, code = f"the object store at {endpoint}", status_of(error), error.code or ""
    if code == "NoSuchBucket":
        return StoreError(f"bucket {bucket} does not exist at {endpoint}: create it or set LLAVA_AV_BUCKET")
    if code in _MISSING:
        return ObjectMissing(f"s3://{bucket}/{key} does not exist at {endpoint}")
    if code == "NoSuchUpload":
        return UploadGone(f"the upload of s3://{bucket}/{key} to {endpoint} was aborted elsewhere: run again")
    if code == "PreconditionFailed":
        return StoreError(f"s3://{bucket}/{key} at {endpoint} was replaced while it was read: run again")
    if code == "RequestTimeTooSkewed":
        return StoreError(f"{where} refuses requests of this machine: set its clock")
    if code in _EXPIRED:
        return StoreError(
            f"{where} refuses access to bucket {bucket}: the session has expired ({code}): set a new "
            "AWS_SESSION_TOKEN with its keys, and run again"
        )
    if code in _REFUSED or status in (401, 403):
        return StoreError(f"{where} refuses access to bucket {bucket} ({code or status}): {_KEYS}")
    if code in _FULL or status == 507:
        return StoreError(f"{where} is full: free space on its disk and run again")
    if code in _TRANSIENT or status in _BUSY or status >= 500:
        described = _of_status(status, _one_line(error.message), endpoint, transient=code in _TRANSIENT)
        described.retry_after_s = _retry_after_s(error)
        return described
    refused = f"{where} refused s3://{bucket}/{key}: {code}: {_one_line(error.message)}"
    # The answer to HEAD has no body, so it does not say that a session has expired.
    advice = ": check whether the session of AWS_SESSION_TOKEN has expired" if code == "BadRequest" else ""
    return StoreError(f"{refused}{advice}")


def _of_status(status: int, message: str, endpoint: str, *, transient: bool = False) -> StoreError:
    where = f"the object store at {endpoint}"
    if transient or status in _BUSY or status >= 500:
        failed = f"{where} failed (HTTP {status}, {_one_line(message)})"
        return StoreError(f"{failed}: see its log, and whether its disk is full", transient=status != 501)
    return StoreError(f"{where} does not answer like an S3 server (HTTP {status}): {_ENDPOINT}")


def _retry_after_s(error: S3Error) -> float:
    with contextlib.suppress(exceptions.HTTPError):
        return min(Retry().get_retry_after(error.response) or 0.0, _LONGEST_RETRY_AFTER_S)
    return 0.0


def _of_transport(error: exceptions.HTTPError, endpoint: str) -> StoreError:
    reason = getattr(error, "reason", None)
    cause = reason if isinstance(reason, exceptions.HTTPError) else error
    # A certificate does not become valid, but a connection that breaks during TLS may work next time.
    permanent = isinstance(cause, exceptions.SSLError) and not isinstance(cause.args[0], SSLEOFError)
    return StoreError(f"the object store at {endpoint} {_transport_failure(cause)}", transient=not permanent)


def _transport_failure(cause: exceptions.HTTPError) -> str:
    text = _one_line(str(cause))
    if isinstance(cause, exceptions.NameResolutionError) or "resolve" in text:
        return f"cannot be found (no such host): {_ENDPOINT}"
    if isinstance(cause, exceptions.SSLError):
        return f"has a TLS problem ({text}): {_ENDPOINT}, or name its certificates in SSL_CERT_FILE"
    if isinstance(cause, exceptions.NewConnectionError):
        return f"cannot be reached ({text.rpartition('] ')[2].strip()}): start it, or {_ENDPOINT}"
    if isinstance(cause, TooSlow):
        return (
            f"is too slow ({text}, under {FLOOR_BYTES_PER_S} bytes a second): check the network and its load"
        )
    if isinstance(cause, DamagedAnswer):
        return f"gives a damaged answer ({text}): check the network, and see its log"
    if isinstance(cause, exceptions.TimeoutError):
        return f"does not answer in time: {_ENDPOINT} and the network"
    return f"broke the connection ({text}): see its log, or {_ENDPOINT}"


def _one_line(text: str | None) -> str:
    return redact_line(text or "no reason given")
