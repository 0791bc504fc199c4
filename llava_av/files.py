"""Files that appear whole or not at all, whoever is killed while writing them, and locks of files."""

import contextlib
import fcntl
import json
import os
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["PART", "file_lock", "is_new_folder", "whole_file", "write_array", "write_json", "write_whole"]

PART = ".partial"
"""End of the name of a file that is not whole yet; a killed writer leaves it."""


@contextlib.contextmanager
def whole_file(path: Path, *, mode: int | None = None) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`, and move the file there to `path` when the block ends.

    If the block raises, the temporary file is deleted and `path` stays as it was.

    Args:
        path: The file; its folder is made if it does not exist.
        mode: Permissions of the file; by default those of the file that it replaces, or the umask's.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}{PART}")
    try:
        yield part
        if mode is None and path.exists():
            mode = path.stat().st_mode & 0o777
        if mode is not None:
            part.chmod(mode)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def file_lock(path: Path, *, refusal: Exception | None = None) -> Iterator[None]:
    """Hold the lock of a file for a block; the kernel releases it if the process is killed.

    Args:
        path: The file, which is created if it does not exist, in a folder that exists.
        refusal: Error to raise if another process holds the lock; None to wait for that process.
    """
    with path.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX if refusal is None else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if refusal is None:
                raise
            raise refusal from None
        yield


def is_new_folder(folder: Path) -> bool:
    """Check whether a folder can appear by one rename: it is absent or empty, and no command runs in it."""
    if not folder.exists():
        return not folder.is_symlink()
    is_empty = folder.is_dir() and not folder.is_symlink() and not any(folder.iterdir())
    return is_empty and folder.resolve() != Path.cwd()


def write_whole(path: Path, content: str | bytes, *, mode: int | None = None) -> None:
    """Write a file from text (as UTF-8, line ends unchanged) or bytes, in place of one that exists."""
    data = content.encode() if isinstance(content, str) else content
    with whole_file(path, mode=mode) as part:
        # Never readable by others before it has its mode.
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666 if mode is None else mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)


def write_json(path: Path, value: Mapping[str, object]) -> None:
    """Write a mapping as indented JSON.

    Raises:
        ValueError: A number is not finite.
    """
    write_whole(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_array(file: IO[bytes], array: "npt.NDArray[Any]") -> None:
    """Write an array as `numpy.save` does, whose error for a full disk has no number.

    Raises:
        OSError: The disk is full, or the file cannot be written.
    """
    # Most commands start without NumPy.
    import numpy as np
    from numpy.lib import format as array_format

    whole = np.ascontiguousarray(array)
    array_format.write_array_header_1_0(file, array_format.header_data_from_array_1_0(whole))
    file.write(whole.data)
