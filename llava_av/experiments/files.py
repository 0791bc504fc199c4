"""Writing into a folder of records: one writer at a time, and no file half written."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["locked", "replace_whole"]


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One writer of the folder at a time; the lock goes with its process and leaves no file."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def replace_whole(path: Path, text: str) -> None:
    """Writes a file, in place of the old one only when it is whole; the caller holds the folder's lock."""
    # a fixed name, as only the holder of the lock writes it: what a killed writer leaves is overwritten
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8")
    if path.exists():
        part.chmod(path.stat().st_mode & 0o777)
    part.replace(path)
