"""Output of results, and progress of running steps: bars on a terminal, lines elsewhere."""

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from llava_av.errors import printable
from llava_av.processes import PROGRESS_VARIABLE, ProgressEvent, follow_progress

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID

__all__ = [
    "console_progress",
    "print_json",
    "print_rows",
    "print_values",
    "result_console",
    "show_progress",
]

_LINE_EVERY_S = 10.0
_UNWRAPPED = 10_000


def result_console() -> "Console":
    """Return a console of standard output that does not wrap lines, such as IDs, in a pipe or file."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal or "COLUMNS" in os.environ else Console(width=_UNWRAPPED)


def print_json(value: object) -> None:
    """Print a value as indented JSON."""
    print(json.dumps(value, indent=1, ensure_ascii=False))


def print_rows(columns: Sequence[str], rows: Iterable[Iterable[str]]) -> None:
    """Print a table with one line per row, which is neither cut nor wrapped, so that IDs can be copied."""
    from rich.cells import cell_len, set_cell_size

    table = [list(columns), *([printable(cell) for cell in row] for row in rows)]
    widths = [max(map(cell_len, column)) for column in zip(*table, strict=True)]
    for cells in table:
        padded = (set_cell_size(cell, width) for cell, width in zip(cells, widths, strict=True))
        print("  ".join(padded).rstrip())


def print_values(values: Mapping[str, str]) -> None:
    """Print the name and text of each value on a line; leave out empty values."""
    width = max(map(len, values), default=0)
    for name, value in values.items():
        if value:
            print(printable(f"{name:<{width}}  {value}"))


def show_progress(console: "Console") -> contextlib.AbstractContextManager[None]:
    """Show the progress that child processes report in the file LLAVA_AV_PROGRESS during a block."""
    if console.is_terminal:
        return _showing(partial(_show_bars, console))
    plain = partial(console.print, emoji=False, highlight=False, markup=False, soft_wrap=True)
    return _showing(partial(_show_lines, plain))


def console_progress() -> contextlib.AbstractContextManager[None]:
    """Show progress on standard error, for commands that print results."""
    if not sys.stderr.isatty():
        return _showing(partial(_show_lines, partial(print, file=sys.stderr, flush=True)))
    from rich.console import Console

    return show_progress(Console(stderr=True))


@contextlib.contextmanager
def _showing(show: Callable[[Path, threading.Event], None]) -> Iterator[None]:
    """Call a function that follows the file with the progress, in a thread, until the block ends."""
    stop = threading.Event()
    path = Path(os.environ[PROGRESS_VARIABLE])
    thread = threading.Thread(target=show, args=(path, stop), name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _show_bars(console: "Console", path: Path, stop: threading.Event) -> None:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

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
            progress.update(tasks[event.step], note=event.note)
            # A phase has no counts; those of earlier steps stay.
            if event.total:
                progress.update(tasks[event.step], completed=event.done, total=event.total)


def _show_lines(write: Callable[[str], object], path: Path, stop: threading.Event) -> None:
    """Print a line when a step starts or ends or enters a phase, and every few seconds in between."""
    started: dict[str, float] = {}
    last_line = 0.0
    for event in follow_progress(path, stop):
        now = time.monotonic()
        is_phase = event.total == 0
        started.setdefault(event.step, now)
        if is_phase or event.note == "done" or now - last_line >= _LINE_EVERY_S:
            last_line = now
            write(_line(event, now - started[event.step]))


def _line(event: ProgressEvent, seconds: float) -> str:
    counts = f" {event.done}/{event.total}" if event.total > 1 else ""
    return f"{event.step:<9}{counts} {event.note} ({seconds:.0f} s)"
