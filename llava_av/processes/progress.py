"""Progress of long work, passed between processes as JSON lines in one file."""

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "PROGRESS_VARIABLE",
    "ProgressCallback",
    "ProgressEvent",
    "follow_progress",
    "progress_reporter",
    "report_progress",
]

ProgressCallback = Callable[[int, int], None]
"""Called with the number of finished units of work and their total."""
PROGRESS_VARIABLE = "LLAVA_AV_PROGRESS"
_POLL_S = 0.1


@dataclass(frozen=True, kw_only=True)
class ProgressEvent:
    """Progress of a step: `done` of `total` units of work are finished; `note` describes the current work."""

    step: str
    done: int
    total: int
    note: str = ""


def report_progress(step: str, done: int, total: int, note: str = "") -> None:
    """Append one line to the file that LLAVA_AV_PROGRESS names; do nothing if it is unset."""
    path = os.environ.get(PROGRESS_VARIABLE)
    if not path:
        return
    line = json.dumps({"step": step, "done": done, "total": total, "note": note}) + "\n"
    # Progress is optional: the work itself reports a full disk, not this line. One write with O_APPEND keeps
    # the lines of several processes apart.
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(descriptor, line.encode())
        finally:
            os.close(descriptor)


def progress_reporter(step: str, note: str) -> ProgressCallback:
    """Return a callback that reports many small units of work, at most once per poll of the readers.

    Args:
        step: As in `ProgressEvent`.
        note: As in `ProgressEvent`.
    """
    next_s = 0.0

    def report(done: int, total: int) -> None:
        nonlocal next_s
        now_s = time.monotonic()
        if done < total and now_s < next_s:
            return
        next_s = now_s + _POLL_S
        report_progress(step, done, total, note)

    return report


def follow_progress(path: Path, stop: threading.Event) -> Iterator[ProgressEvent]:
    """Yield the events of a file as they are written, starting with existing ones.

    The iterator ends when `stop` is set and every earlier event was yielded. The file may not exist yet.
    """
    offset, rest = 0, b""
    while True:
        last_round = stop.is_set()
        data = _read_from(path, offset)
        offset += len(data)
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            event = _parse(line)
            if event is not None:
                yield event
        if last_round:
            return
        stop.wait(_POLL_S)


def _read_from(path: Path, offset: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(offset)
            return file.read()
    except FileNotFoundError:
        return b""


def _parse(line: bytes) -> ProgressEvent | None:
    """Parse an event; return None for a line that a full disk or a killed writer truncated."""
    try:
        fields = json.loads(line)
        return ProgressEvent(
            step=str(fields["step"]),
            done=int(fields["done"]),
            total=int(fields["total"]),
            note=str(fields["note"]),
        )
    except (ValueError, KeyError, TypeError):
        return None
