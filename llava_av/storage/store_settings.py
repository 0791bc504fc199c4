"""Address, bucket and credentials of the object store, read from the environment."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from minio.helpers import check_bucket_name

from llava_av.processes import STORE_RETRY_VARIABLE, seconds_variable
from llava_av.storage.access_keys import DEFAULT_PROFILE, SHARED_FILE_VARIABLE, Keys, read_keys
from llava_av.storage.store_errors import StoreError

__all__ = [
    "DEFAULT_BUCKET",
    "DEFAULT_REGION",
    "IDENTITY_VARIABLES",
    "StoreSettings",
    "read_settings",
    "required_variables",
]

DEFAULT_BUCKET = "llava-av"
DEFAULT_REGION = "us-east-1"
IDENTITY_VARIABLES = (
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)
"""If one is set, a cloud gives this process an identity, which replaces keys."""
_STALL = "LLAVA_AV_S3_STALL_S"
_RETRY_S, _STALL_S = 10.0, 30.0
_ENDPOINT = "AWS_ENDPOINT_URL_S3"
_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")


@dataclass(frozen=True, kw_only=True)
class StoreSettings:
    """An S3 endpoint (an http or https URL without a path), the keys for it, a region and a bucket."""

    endpoint: str
    access_key: str | None
    """None if an identity replaces keys."""
    secret_key: str | None = field(repr=False)
    session_token: str | None = field(default=None, repr=False)
    """Token of temporary keys."""
    sts_endpoint: str | None = None
    """Endpoint that exchanges an identity (None: AWS's) or keys (None: `endpoint`) for session keys."""
    region: str = DEFAULT_REGION
    bucket: str = DEFAULT_BUCKET
    retry_s: float = _RETRY_S
    """Seconds for which an operation is retried after a transient failure; 0: no retry."""
    stall_s: float = _STALL_S
    """Seconds in which a transfer must move more than the floor (`transport.FLOOR_BYTES_PER_S`)."""

    def __post_init__(self) -> None:
        """Check the endpoint and the bucket's name.

        Raises:
            StoreError: The endpoint is not an http(s) URL of a host, or a bucket cannot have this name.
        """
        try:
            check_bucket_name(self.bucket)
        except ValueError as error:
            raise StoreError(f"LLAVA_AV_BUCKET={self.bucket} is not the name of a bucket: {error}") from error
        parts = urlsplit(self.endpoint)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/"):
            raise StoreError(
                f"AWS_ENDPOINT_URL_S3={self.endpoint} is not the address of an S3 server: "
                "give http(s)://HOST:PORT without a path"
            )
        if parts.username is not None:
            raise StoreError(
                f"AWS_ENDPOINT_URL_S3={self.endpoint} must not have a user and password: remove the part "
                "before @, and set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            )

    @property
    def host(self) -> str:
        """`HOST:PORT` of the endpoint."""
        return urlsplit(self.endpoint).netloc

    @property
    def secure(self) -> bool:
        """True if the endpoint uses TLS."""
        return urlsplit(self.endpoint).scheme == "https"


def required_variables(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Return the variables that must be set: the endpoint, and keys unless a file or an identity has them."""
    instead = any(environment.get(name) for name in (SHARED_FILE_VARIABLE, *IDENTITY_VARIABLES))
    return (_ENDPOINT,) if instead and not _names_keys(environment) else (_ENDPOINT, *_KEYS)


def _names_keys(environment: Mapping[str, str]) -> bool:
    return any(environment.get(name) for name in _KEYS)


def read_settings(environment: Mapping[str, str] | None = None) -> StoreSettings:
    """Read the settings from `required_variables`, AWS_SESSION_TOKEN and variables with defaults.

    AWS_REGION, LLAVA_AV_BUCKET, LLAVA_AV_S3_RETRY_S and LLAVA_AV_S3_STALL_S have defaults. Keys in variables
    take precedence over the file that AWS_SHARED_CREDENTIALS_FILE names (its profile AWS_PROFILE, or
    `default`), and the file over an identity.

    Args:
        environment: Variables to read; those of this process if None.

    Raises:
        StoreError: A required variable is missing or empty, a number is out of range, or the file has no
            keys; the message names each such variable.
    """
    variables = os.environ if environment is None else environment
    missing = [name for name in required_variables(variables) if not variables.get(name)]
    if missing:
        raise StoreError(f"no object store is configured: set {', '.join(missing)} in the environment")
    keys = _keys(variables)
    return StoreSettings(
        endpoint=variables[_ENDPOINT],
        access_key=keys.access_key if keys else None,
        secret_key=keys.secret_key if keys else None,
        session_token=keys.session_token if keys else None,
        sts_endpoint=variables.get("AWS_ENDPOINT_URL_STS") or None,
        region=variables.get("AWS_REGION") or DEFAULT_REGION,
        bucket=variables.get("LLAVA_AV_BUCKET") or DEFAULT_BUCKET,
        retry_s=seconds_variable(variables, STORE_RETRY_VARIABLE, _RETRY_S, least=0.0, error=StoreError),
        stall_s=seconds_variable(variables, _STALL, _STALL_S, least=0.1, error=StoreError),
    )


def _keys(variables: Mapping[str, str]) -> Keys | None:
    """Return the keys in the variables or in the file that they name; None if an identity replaces them."""
    if _names_keys(variables):
        access_key, secret_key = (variables[name] for name in _KEYS)
        token = variables.get("AWS_SESSION_TOKEN") or None
        return Keys(access_key=access_key, secret_key=secret_key, session_token=token)
    file = variables.get(SHARED_FILE_VARIABLE)
    return read_keys(Path(file), variables.get("AWS_PROFILE") or DEFAULT_PROFILE) if file else None
