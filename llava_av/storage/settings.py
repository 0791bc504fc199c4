"""Where the object store is and how to sign requests to it, read from the environment."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from minio.helpers import check_bucket_name

from llava_av.processes import STORE_RETRY_VARIABLE, seconds_variable
from llava_av.storage.errors import StoreError

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
"""Any of them says that a cloud gives this process an identity, which then stands for keys."""
_STALL = "LLAVA_AV_S3_STALL_S"
_RETRY_S, _STALL_S = 10.0, 30.0
_ENDPOINT = "AWS_ENDPOINT_URL_S3"
_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")


@dataclass(frozen=True, kw_only=True)
class StoreSettings:
    """An S3 endpoint (an http or https URL without a path), the keys for it, a region and a bucket."""

    endpoint: str
    access_key: str | None
    """None where an identity stands for keys."""
    secret_key: str | None = field(repr=False)
    session_token: str | None = field(default=None, repr=False)
    """Of keys that hold for a while only."""
    sts_endpoint: str | None = None
    """Where an identity is exchanged for keys; AWS's if None."""
    region: str = DEFAULT_REGION
    bucket: str = DEFAULT_BUCKET
    retry_s: float = _RETRY_S
    """Seconds for which an operation is retried after a transient failure; 0: no retry."""
    stall_s: float = _STALL_S
    """Seconds in which a transfer has to move more than the floor (`transport.FLOOR_BYTES_PER_S`)."""

    def __post_init__(self) -> None:
        """Check the endpoint and the bucket's name.

        Raises:
            StoreError: The endpoint is no http(s) URL of a host, or no bucket can have this name.
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
                f"AWS_ENDPOINT_URL_S3={self.endpoint} must not have a user and password: leave out what is "
                "before @, and set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            )

    @property
    def host(self) -> str:
        """HOST:PORT of the endpoint."""
        return urlsplit(self.endpoint).netloc

    @property
    def secure(self) -> bool:
        """Whether the endpoint speaks TLS."""
        return urlsplit(self.endpoint).scheme == "https"


def required_variables(environment: Mapping[str, str]) -> tuple[str, ...]:
    """The variables that have to be set: the endpoint, and keys for it unless there is an identity."""
    identity = any(environment.get(name) for name in IDENTITY_VARIABLES)
    given = any(environment.get(name) for name in _KEYS)
    return (_ENDPOINT,) if identity and not given else (_ENDPOINT, *_KEYS)


def read_settings(environment: Mapping[str, str] | None = None) -> StoreSettings:
    """Read `required_variables` and AWS_SESSION_TOKEN, and what has a default.

    AWS_REGION, LLAVA_AV_BUCKET, LLAVA_AV_S3_RETRY_S and LLAVA_AV_S3_STALL_S have one.

    Args:
        environment: The variables to read; this process's if None.

    Raises:
        StoreError: A required one is missing or empty, or a number is out of range; the message names each
            such variable.
    """
    variables = os.environ if environment is None else environment
    missing = [name for name in required_variables(variables) if not variables.get(name)]
    if missing:
        raise StoreError(f"no object store is set: {', '.join(missing)} missing from the environment")
    return StoreSettings(
        endpoint=variables[_ENDPOINT],
        access_key=variables.get("AWS_ACCESS_KEY_ID") or None,
        secret_key=variables.get("AWS_SECRET_ACCESS_KEY") or None,
        session_token=variables.get("AWS_SESSION_TOKEN") or None,
        sts_endpoint=variables.get("AWS_ENDPOINT_URL_STS") or None,
        region=variables.get("AWS_REGION") or DEFAULT_REGION,
        bucket=variables.get("LLAVA_AV_BUCKET") or DEFAULT_BUCKET,
        retry_s=seconds_variable(variables, STORE_RETRY_VARIABLE, _RETRY_S, least=0.0, error=StoreError),
        stall_s=seconds_variable(variables, _STALL, _STALL_S, least=0.1, error=StoreError),
    )
