"""Keys of an S3 user, and the file in which AWS's tools share them.

[default]
aws_access_key_id = …
aws_secret_access_key = …
aws_session_token = …       of keys that expire
"""

import configparser
import os
from dataclasses import dataclass, field
from pathlib import Path

from llava_av.storage.store_errors import StoreError, local_files

__all__ = ["DEFAULT_PROFILE", "SHARED_FILE_VARIABLE", "Keys", "read_keys", "write_keys"]

SHARED_FILE_VARIABLE = "AWS_SHARED_CREDENTIALS_FILE"
"""Variable that names a file with keys."""
DEFAULT_PROFILE = "default"
_ACCESS_KEY, _SECRET_KEY, _TOKEN = "aws_access_key_id", "aws_secret_access_key", "aws_session_token"


@dataclass(frozen=True, kw_only=True)
class Keys:
    """Access key and secret key, and the token of keys that expire."""

    access_key: str
    secret_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)


def read_keys(path: Path, profile: str = DEFAULT_PROFILE) -> Keys:
    """Read the keys of one profile.

    Raises:
        StoreError: The file cannot be read, does not have the format, or has no keys of this profile.
    """
    where = f"{SHARED_FILE_VARIABLE}={path}"
    parser = configparser.RawConfigParser()
    try:
        parser.read_string(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise StoreError(f"{where} cannot be read: {error.strerror}") from error
    except (configparser.Error, UnicodeDecodeError):
        # The error of the parser quotes the line, which may hold a secret.
        raise StoreError(
            f"{where} is not in the format of AWS's shared credentials: begin with [{profile}]"
        ) from None
    access_key, secret_key, token = (
        parser.get(profile, name, fallback="") for name in (_ACCESS_KEY, _SECRET_KEY, _TOKEN)
    )
    if not access_key or not secret_key:
        raise StoreError(f"{where} has no {_ACCESS_KEY} and {_SECRET_KEY} under [{profile}]: add them")
    return Keys(access_key=access_key, secret_key=secret_key, session_token=token or None)


def write_keys(path: Path, keys: Keys) -> None:
    """Write keys as the default profile of a file that only this user can read."""
    values = {_ACCESS_KEY: keys.access_key, _SECRET_KEY: keys.secret_key, _TOKEN: keys.session_token}
    lines = [f"{name} = {value}\n" for name, value in values.items() if value]
    with local_files(path):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(f"[{DEFAULT_PROFILE}]\n{''.join(lines)}")
