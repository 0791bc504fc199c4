"""Folder that a command writes as a whole."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from llava_av.errors import UserError

__all__ = ["copy_folder", "whole_folder"]


@contextlib.contextmanager
def whole_folder(target: Path) -> Iterator[None]:
    """Create a folder for a block, unless it is there and empty; empty it if the block fails.

    Raises:
        UserError: The folder or a file in it cannot be written.
    """
    try:
        target.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException as error:
        for path in target.iterdir() if target.is_dir() else ():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        if isinstance(error, OSError):
            reason = error.strerror or str(error)
            raise UserError(f"cannot write {target}: {reason}; choose another folder") from error
        raise


def copy_folder(source: Path, target: Path) -> list[str]:
    """Copy the files of a folder except hidden ones, and return their names in the folder."""
    paths = (path.relative_to(source) for path in sorted(source.rglob("*")) if path.is_file())
    names = [path for path in paths if not any(part.startswith(".") for part in path.parts)]
    for name in names:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, target / name)
    return [str(name) for name in names]
