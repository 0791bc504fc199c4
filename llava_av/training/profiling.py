"""Profile of some steps: a trace for trace viewers, and a table with the time of each part of a step.

Only rank zero is profiled. Parts of a step are timed by their wall time; on a GPU each part waits for its
kernels meanwhile, so steps take a little longer than without a profile. Communication happens within the
other parts, so the table lists it separately.
"""

import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from llava_av.files import write_whole
from llava_av.plurals import count_of
from llava_av.processes import PROFILE_FOLDER_VARIABLE, PROFILE_STEPS_VARIABLE
from llava_av.processes.variables import count_variable

__all__ = ["StepProfiler"]

_LOG = logging.getLogger(__name__)

_PARTS = ("data wait", "forward", "backward", "optimizer", "metrics", "checkpoint")
TRACE, TABLE = "trace.json.gz", "table.txt"


class StepProfiler:
    """Profiler of the steps after the first one of a job, which compiles kernels and allocates memory.

    Args:
        steps: Number of steps; 0 profiles none.
        folder: Folder for trace and table.
        keep: Called with each file.
    """

    def __init__(self, steps: int, folder: Path, keep: Callable[[Path], None]) -> None:
        self._left = steps
        self._folder = folder
        self._keep = keep
        self._profile: Any = None
        self._seconds = dict.fromkeys(_PARTS, 0.0)
        self._started, self._steps = 0.0, 0

    @classmethod
    def from_env(cls, folder: Path, keep: Callable[[Path], None], *, is_rank_zero: bool) -> "StepProfiler":
        """Return the profiler that the environment configures; only that of rank zero is active."""
        steps = count_variable(os.environ, PROFILE_STEPS_VARIABLE) if is_rank_zero else 0
        return cls(steps, Path(os.environ.get(PROFILE_FOLDER_VARIABLE) or folder), keep)

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time a part of a step."""
        if self._profile is None:
            yield
            return
        started = time.monotonic()
        with record_function(name):
            yield
            if torch.cuda.is_available():
                torch.cuda.synchronize()
        self._seconds[name] += time.monotonic() - started

    def waited(self, seconds: float) -> None:
        """Add time that training waited for a batch."""
        if self._profile is not None:
            self._seconds["data wait"] += seconds

    def stepped(self) -> None:
        """Start after the first step, and finish after the last one to profile."""
        if self._profile is not None:
            self._steps += 1
            self._left -= 1
            if not self._left:
                self.finish()
        elif self._left:
            activities = [ProfilerActivity.CPU]
            activities += [ProfilerActivity.CUDA] if torch.cuda.is_available() else []
            # The profiler writes its own log lines to the console, errors without a GPU among them.
            os.environ.setdefault("KINETO_LOG_LEVEL", "99")
            self._profile = profile(activities=activities)
            self._profile.start()
            self._started = time.monotonic()

    def finish(self) -> None:
        """Write trace and table, if any step was profiled."""
        found, self._profile = self._profile, None
        if found is None:
            return
        total_s = time.monotonic() - self._started
        found.stop()
        if not self._steps:
            # A stage of one step; the next one is profiled.
            return
        self._left = 0
        self._folder.mkdir(parents=True, exist_ok=True)
        found.export_chrome_trace(str(self._folder / TRACE))
        table = self._table(total_s, _communication_s(found.events()))
        write_whole(self._folder / TABLE, table)
        steps = count_of(self._steps, "step")
        _LOG.info("profile of %s, trace in %s:\n%s", steps, self._folder / TRACE, table.rstrip())
        for name in (TRACE, TABLE):
            self._keep(self._folder / name)

    def _table(self, total_s: float, communication_s: float) -> str:
        rows = [*self._seconds.items(), ("other", total_s - sum(self._seconds.values())), ("step", total_s)]
        rows.append(("incl. communication", communication_s))
        lines = [
            f"{name:<20} {1000 * seconds / self._steps:>10.2f} ms {100 * seconds / total_s:>6.1f} %\n"
            for name, seconds in rows
        ]
        return "".join(lines)


def _communication_s(events: Any) -> float:
    """Return the seconds in collective operations: kernels of NCCL, or calls of Gloo."""
    microseconds = sum(
        event.time_range.elapsed_us()
        for event in events
        if event.name.startswith(("ncclDevKernel", "ncclKernel", "gloo:"))
    )
    return float(microseconds) / 1e6
