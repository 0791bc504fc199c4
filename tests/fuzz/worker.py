"""Worker process that reads damaged files and reports failures.

A reader must return a result or raise a `UserError` of one line, and training must be able to read each file
that `check_media` accepts.
"""

import contextlib
import os
import resource
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

from llava_av.datasets.sources.folder import CONVERSATIONS, read_folder
from llava_av.errors import UserError
from llava_av.media.check import check_media
from llava_av.media.container import MediaInfo
from llava_av.media.decode import frame_times, probe, read_audio, read_frames
from llava_av.media.image import image_size, read_image

__all__ = ["serve"]

MEMORY_BYTES = 2**30
_ADDRESSES_BYTES = 16 * 2**30


def serve(connection: Connection) -> None:
    """Answer each path with the list of its failures, until the other end closes."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    resource.setrlimit(resource.RLIMIT_AS, (_ADDRESSES_BYTES, _ADDRESSES_BYTES))
    with contextlib.suppress(EOFError):
        while True:
            connection.send(_wrong(Path(connection.recv())))


def _wrong(path: Path) -> list[str]:
    before = _peak_bytes(reset=True)
    found = _read_lines(path) if path.name == CONVERSATIONS else _read_media(path)
    used = _peak_bytes() - before
    return [*found, *([f"memory: {used >> 20} MiB"] if used > MEMORY_BYTES else [])]


def _peak_bytes(reset: bool = False) -> int:
    """Return the peak memory since the last reset; `reset` starts again from the current memory."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def _read_lines(path: Path) -> list[str]:
    found: list[str] = []
    _outcome(found, "read_folder", lambda: read_folder(path.parent))
    return found


def _read_media(path: Path) -> list[str]:
    found: list[str] = []
    checked = _outcome(found, "check_media", lambda: check_media(path))
    probed = _outcome(found, "probe", lambda: probe(path))
    info = checked if isinstance(checked, MediaInfo) else probed
    duration_s = info.duration_s if isinstance(info, MediaInfo) else 1.0
    times_s = frame_times(max(duration_s, 0.0), frames_per_s=2, max_frames=8)
    reads: dict[str, Callable[[], object]] = {
        "image_size": lambda: image_size(path, max_pixels=10_000),
        "read_image": lambda: read_image(path, max_pixels=10_000),
        "read_frames": lambda: read_frames(path, times_s, size=16),
        "read_audio": lambda: read_audio(path, sample_rate_hz=16_000, max_s=2),
    }
    outcomes = {name: _outcome(found, name, read) for name, read in reads.items()}
    if isinstance(checked, MediaInfo):
        needed = {"image": ["image_size", "read_image"], "video": ["read_frames"], "audio": []}[checked.kind]
        for name in [*needed, *(["read_audio"] if checked.has_audio else [])]:
            if isinstance(outcomes[name], UserError):
                found.append(f"check_media accepts the file, but {name} fails: {outcomes[name].args[-1]}")
    return found


def _outcome(found: list[str], name: str, read: Callable[[], object]) -> object:
    """Return the result or the `UserError` of a reader; append any other failure to `found`."""
    try:
        return read()
    except UserError as error:
        if len(str(error).splitlines()) != 1:
            found.append(f"{name}: an error of several lines: {str(error)!r}")
        return error
    except BaseException as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        found.append(f"{name}: {type(error).__name__} at {Path(where.filename).name}:{where.lineno}: {error}")
        return None
