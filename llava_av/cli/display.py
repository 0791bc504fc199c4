"""Progress display of running steps: bars on a terminal, lines elsewhere."""

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from llava_av.processes import PROGRESS_VARIABLE, ProgressEvent, follow_progress

__all__ = ["console_progress", "show_progress"]

_LINE_EVERY_S = 10.0


@contextlib.contextmanager
def show_progress(console: Console) -> Iterator[None]:
    """Show the progress that child processes report in the file LLAVA_AV_PROGRESS during the block."""
    stop = threading.Event()
    path = Path(os.environ[PROGRESS_VARIABLE])
    show = _show_bars if console.is_terminal else _show_lines
    thread = threading.Thread(target=show, args=(console, path, stop), name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def console_progress() -> contextlib.AbstractContextManager[None]:
    """Show progress on standard error, for commands that print results."""
    return show_progress(Console(stderr=True))


def _show_bars(console: Console, path: Path, stop: threading.Event) -> None:
    columns = (
        TextColumn("{task.description:<9}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
    )
    tasks: dict[str, TaskID] = {}
    with Progress(*columns, console=console) as progress:
        for event in follow_progress(path, stop):
            if event.step not in tasks:
                tasks[event.step] = progress.add_task(event.step, total=None, note="")
            progress.update(
                tasks[event.step], completed=event.done, total=event.total or None, note=event.note
            )


def _show_lines(console: Console, path: Path, stop: threading.Event) -> None:
    """Print a line when a step starts and ends, and every few seconds in between."""
    started: dict[str, float] = {}
    last_line = 0.0
    for event in follow_progress(path, stop):
        now = time.monotonic()
        first = event.step not in started
        started.setdefault(event.step, now)
        if first or event.note == "done" or now - last_line >= _LINE_EVERY_S:
            last_line = now
            console.print(_line(event, now - started[event.step]), highlight=False, markup=False)


def _line(event: ProgressEvent, seconds: float) -> str:
    counts = f" {event.done}/{event.total}" if event.total > 1 else ""
    return f"{event.step:<9}{counts} {event.note} ({seconds:.0f} s)"
