"""Interface of launchers: a job, its result, and the guarantee that no process outlives the call."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from llava_av.errors import UserError

__all__ = ["JobResult", "JobSpec", "LaunchError", "Launcher"]


class LaunchError(UserError):
    """A job that could not start or failed; one line with the cause and the path of its log."""


@dataclass(frozen=True, kw_only=True)
class JobSpec:
    """A Python module to run in one or more processes that work together."""

    name: str
    """Lower-case name of the job; also of its log."""
    module: str
    """Module that each process runs as `python -m module`."""
    arguments: tuple[str, ...] = ()
    """Command line arguments, the same for each process."""
    processes: int | None = None
    """Size of the `torch.distributed` process group; None for a single process without a group."""
    run: str = ""
    """ID of the run that the job belongs to; with `name` it distinguishes jobs on a cluster."""
    prepare: tuple[str, ...] = ()
    """Command that must succeed on each machine before the job starts there, with the same variables.
    Its first word `python` is the interpreter that the job runs with."""


@dataclass(frozen=True, kw_only=True)
class JobResult:
    """Result of a job that succeeded."""

    seconds: float
    """Wall time from start to end."""
    job: str | None = None
    """Name of the PyTorchJob; None for a job on this machine."""


class Launcher(Protocol):
    """Launcher of one job at a time."""

    def run(self, spec: JobSpec, *, on_line: Callable[[str], None] | None = None) -> JobResult:
        """Run a job and wait for its end; when this returns or raises, all of its processes have ended.

        Args:
            spec: The job.
            on_line: Called with each line of its output, without the line end.

        Raises:
            LaunchError: The job could not start or failed.
        """
        ...
