"""What a job is and what a launcher promises, without saying where the job runs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from llava_av.errors import UserError

__all__ = ["JobResult", "JobSpec", "LaunchError", "Launcher"]


class LaunchError(UserError):
    """A job that could not start or did not end well: one line with the cause and where its log is."""


@dataclass(frozen=True, kw_only=True)
class JobSpec:
    """A Python module to run in one or more processes that train or evaluate together."""

    name: str
    """Lower-case name of the job; also of its log."""
    module: str
    """Module that each process runs as `python -m module`."""
    arguments: tuple[str, ...] = ()
    """Command line arguments, the same for each process."""
    processes: int | None = None
    """Processes that form one group of `torch.distributed`; None for a plain process without a group."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables that each process gets beside those of the launcher."""
    run: str = ""
    """Key of the run that the job is a part of: with `name` it tells jobs on a cluster apart."""
    prepare: tuple[str, ...] = ()
    """Command that has to end well on each machine before the job starts there, with the same variables.
    Its first word `python` is the interpreter that the job runs with."""


@dataclass(frozen=True, kw_only=True)
class JobResult:
    """How a job that ended well ended."""

    exit_code: int
    """Always 0: other codes raise `LaunchError`."""
    last_lines: tuple[str, ...]
    """Last lines of its output."""
    seconds: float
    """Wall time from start to end."""
    job: str | None = None
    """Name of the PyTorchJob on a cluster; None for a job of this machine."""


class Launcher(Protocol):
    """Runs one job to its end."""

    def run(self, spec: JobSpec, *, on_line: Callable[[str], None] | None = None) -> JobResult:
        """Run `spec` and wait for it; nothing of it runs any more when this returns or raises.

        Args:
            spec: The job.
            on_line: Called with each line of its output, without the line end.

        Raises:
            LaunchError: the job could not start or ended with an error.
        """
        ...
