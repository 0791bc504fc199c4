"""Locked and atomic writes into a folder of records."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llava_av.files import PART, write_whole


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder, which ends with the process and leaves no file."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def replace_whole(path: Path, text: str) -> None:
    """Replace a file by a whole new one; the caller holds the folder's lock."""
    # Only the holder of the lock writes, so that a partial file is that of a killed writer.
    for stale in path.parent.glob(f".{path.name}.*{PART}"):
        stale.unlink()
    write_whole(path, text)
