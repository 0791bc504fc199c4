"""Failures of an object store, each as one line that says what to do."""

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

from minio.error import InvalidResponseError, MinioException, S3Error, ServerError
from urllib3 import exceptions

from llava_av.errors import UserError

__all__ = [
    "ObjectDamaged",
    "ObjectMissing",
    "StoreError",
    "describe_failure",
    "local_files",
    "status_of",
    "store_failures",
]

_REFUSED = {"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "AllAccessDisabled"}
_MISSING = {"NoSuchKey", "NoSuchVersion", "ResourceNotFound"}
_FULL = {"XMinioStorageFull", "InsufficientStorage", "QuotaExceeded", "XMinioAdminBucketQuotaExceeded"}
_UNUSABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG)
_KEYS = "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and that this key may read and write"
_ENDPOINT = "check AWS_ENDPOINT_URL_S3"


class StoreError(UserError):
    """The object store cannot be used; the text names it and says what to do."""


class ObjectMissing(StoreError):
    """There is no object with the key asked for."""


class ObjectDamaged(StoreError):
    """An object whose content does not match its checksum."""


@contextlib.contextmanager
def store_failures(endpoint: str, bucket: str, key: str = "") -> Iterator[None]:
    """Turn what the client library raises inside into `StoreError` or `ObjectMissing`."""
    try:
        yield
    except (MinioException, exceptions.HTTPError) as error:
        raise describe_failure(error, endpoint, bucket, key) from error
    except ValueError as error:
        where = f"s3://{bucket}/{key}"
        raise StoreError(f"the object store at {endpoint} cannot hold {where}: {error}") from error


@contextlib.contextmanager
def local_files(path: Path) -> Iterator[None]:
    """Turn a full disk, or a `path` that cannot be written, into `StoreError`."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoreError(f"no space left on the disk of {path.parent}: free some, run again") from error
        if error.errno in _UNUSABLE:
            raise StoreError(f"cannot write {path}: {error.strerror}") from error
        raise


def status_of(error: Exception) -> int:
    """HTTP status behind an error of the client library; 0 if there was none."""
    if isinstance(error, S3Error):
        return int(error.response.status)
    if isinstance(error, ServerError):
        return error.status_code
    return int(error._code) if isinstance(error, InvalidResponseError) else 0


def describe_failure(error: Exception, endpoint: str, bucket: str, key: str) -> StoreError:
    """The `StoreError` that tells a user about `error`."""
    where = f"the object store at {endpoint}"
    if isinstance(error, exceptions.HTTPError):
        secure = not isinstance(getattr(error, "reason", error), exceptions.SSLError)
        return StoreError(f"{where} {_transport_failure(error)}", transient=secure)
    status, code = status_of(error), (error.code or "") if isinstance(error, S3Error) else ""
    if code == "NoSuchBucket":
        return StoreError(f"bucket {bucket} does not exist at {endpoint}: create it or set LLAVA_AV_BUCKET")
    if code in _MISSING:
        return ObjectMissing(f"s3://{bucket}/{key} does not exist at {endpoint}")
    if code == "RequestTimeTooSkewed":
        return StoreError(f"{where} refuses requests of this machine: set its clock")
    if code in _REFUSED or status in (401, 403):
        return StoreError(f"{where} refuses access to bucket {bucket} ({code or status}): {_KEYS}")
    if code in _FULL or status == 507:
        return StoreError(f"{where} is full: free space on its disk and run again")
    message = error.message if isinstance(error, S3Error) else str(error)
    if status >= 500:
        failed = f"{where} failed (HTTP {status}, {_one_line(message)})"
        return StoreError(f"{failed}: see its log, and whether its disk is full", transient=status != 501)
    if isinstance(error, S3Error):
        return StoreError(f"{where} refused s3://{bucket}/{key}: {code}: {_one_line(message)}")
    return StoreError(f"{where} does not answer as an S3 server does (HTTP {status}): {_ENDPOINT}")


def _transport_failure(error: exceptions.HTTPError) -> str:
    reason = getattr(error, "reason", None)
    cause = reason if isinstance(reason, Exception) else error
    text = _one_line(str(cause))
    if isinstance(cause, exceptions.NameResolutionError) or "resolve" in text:
        return f"cannot be found (no such host): {_ENDPOINT}"
    if isinstance(cause, exceptions.SSLError):
        return f"has a TLS problem ({text}): {_ENDPOINT}, or name its certificates in SSL_CERT_FILE"
    if isinstance(cause, exceptions.NewConnectionError):
        return f"cannot be reached ({text.rpartition('] ')[2].strip()}): start it, or {_ENDPOINT}"
    if isinstance(cause, exceptions.TimeoutError):
        return f"does not answer in time: {_ENDPOINT} and the network"
    return f"broke the connection ({text}): see its log, or {_ENDPOINT}"


def _one_line(text: str | None) -> str:
    return " ".join((text or "no reason given").split())[:300]
