"""Where the object store is and how to sign requests to it, read from the environment."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from llava_av.storage.errors import StoreError

__all__ = ["DEFAULT_BUCKET", "DEFAULT_REGION", "REQUIRED_VARIABLES", "StoreSettings", "read_settings"]

DEFAULT_BUCKET = "llava-av"
DEFAULT_REGION = "us-east-1"
REQUIRED_VARIABLES = ("AWS_ENDPOINT_URL_S3", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")


@dataclass(frozen=True, kw_only=True)
class StoreSettings:
    """An S3 endpoint (an http or https URL without a path), the keys for it, a region and a bucket."""

    endpoint: str
    access_key: str
    secret_key: str = field(repr=False)
    region: str = DEFAULT_REGION
    bucket: str = DEFAULT_BUCKET

    def __post_init__(self) -> None:
        """Check the endpoint.

        Raises:
            StoreError: It is no http(s) URL of a host.
        """
        parts = urlsplit(self.endpoint)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/"):
            raise StoreError(
                f"AWS_ENDPOINT_URL_S3={self.endpoint} is not the address of an S3 server: "
                "give http(s)://HOST:PORT without a path"
            )

    @property
    def host(self) -> str:
        """HOST:PORT of the endpoint."""
        return urlsplit(self.endpoint).netloc

    @property
    def secure(self) -> bool:
        """Whether the endpoint speaks TLS."""
        return urlsplit(self.endpoint).scheme == "https"


def read_settings(environment: Mapping[str, str] | None = None) -> StoreSettings:
    """Read `REQUIRED_VARIABLES`, and AWS_REGION and LLAVA_AV_BUCKET, which have defaults.

    Args:
        environment: The variables to read; this process's if None.

    Raises:
        StoreError: A required one is missing or empty; the message names each such variable.
    """
    variables = os.environ if environment is None else environment
    missing = [name for name in REQUIRED_VARIABLES if not variables.get(name)]
    if missing:
        raise StoreError(f"no object store is set: {', '.join(missing)} missing from the environment")
    return StoreSettings(
        endpoint=variables["AWS_ENDPOINT_URL_S3"],
        access_key=variables["AWS_ACCESS_KEY_ID"],
        secret_key=variables["AWS_SECRET_ACCESS_KEY"],
        region=variables.get("AWS_REGION") or DEFAULT_REGION,
        bucket=variables.get("LLAVA_AV_BUCKET") or DEFAULT_BUCKET,
    )
