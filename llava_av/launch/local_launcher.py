"""Launcher that runs jobs as processes on this machine, under torchrun, on loopback only."""

import contextlib
import logging
import os
import re
import shlex
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from llava_av.launch.api import JobResult, JobSpec, LaunchError
from llava_av.launch.log_cause import failure_cause, logged_cause
from llava_av.processes.cores import available_cores
from llava_av.processes.guard import end_guarded, guarded_popen
from llava_av.redaction import redact

__all__ = ["LocalLauncher"]

_LOG = logging.getLogger(__name__)

_LAST_LINES = 400
_GRACE_S = 60
"""Seconds that an interrupted job gets to save its state."""
_AGENT_MARGIN_S = 5
_LOOPBACK = "127.0.0.1"
_AGENT = re.compile(r"(?P<level>[EW])\d{4} [\d:.]+ \d+ .*?torch/distributed/elastic/")


class LocalLauncher:
    """Launcher of jobs on this machine; their processes end with this process, even if it is killed."""

    def __init__(self, logs: Path) -> None:
        """Write the output of each job to `<logs>/<job name>.log`."""
        self._logs = logs

    def run(self, spec: JobSpec, *, on_line: Callable[[str], None] | None = None) -> JobResult:
        """Run a job and wait for its end; see `Launcher.run`."""
        started = time.monotonic()
        log = self._logs / f"{spec.name}.log"
        self._logs.mkdir(parents=True, exist_ok=True)
        last: deque[str] = deque(maxlen=_LAST_LINES)
        with log.open("w", encoding="utf-8") as file:

            def keep(line: str) -> None:
                last.append(line)
                file.write(line + "\n")
                file.flush()

            shown = _without_agent_report() if spec.processes is not None else lambda _: True

            def pass_on(line: str) -> None:
                keep(line)
                if on_line is not None and shown(line):
                    on_line(line)

            for command in _commands(spec):
                _LOG.debug("starting job %s, log %s: %s", spec.name, log, shlex.join(command))
                code = _run(command, _environment(spec), pass_on, keep)
                if code:
                    raise LaunchError(f"{spec.name} failed: {failure_cause(list(last), code)} (log: {log})")
        return JobResult(seconds=time.monotonic() - started)


def _without_agent_report() -> Callable[[str], bool]:
    """Return a filter for the output of a process group that hides the lines of torchrun itself.

    torchrun ends with a traceback of its own and the exit codes of its processes, about 30 lines that hide
    the error that the job itself logged. The log file has them.
    """
    is_over = False

    def is_shown(line: str) -> bool:
        nonlocal is_over
        agent = _AGENT.match(line)
        is_over = is_over or (agent is not None and agent["level"] == "E")
        return agent is None and (not is_over or bool(logged_cause(line)))

    return is_shown


def _run(
    command: list[str],
    environment: Mapping[str, str],
    on_line: Callable[[str], None],
    on_last_line: Callable[[str], None],
) -> int:
    """Run a command and return its exit code; lines after an interruption go to `on_last_line`."""
    with _started(command, environment) as process:
        try:
            for line in _lines(process):
                on_line(line)
        except (KeyboardInterrupt, SystemExit):
            # A training saves a checkpoint; the guard kills a job that takes too long.
            process.terminate()
            for line in _lines(process):
                on_last_line(line)
            raise
        return process.wait()


@contextlib.contextmanager
def _started(command: list[str], environment: Mapping[str, str]) -> Iterator["subprocess.Popen[bytes]"]:
    process = guarded_popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, grace_s=_GRACE_S
    )
    try:
        yield process
    finally:
        end_guarded(process)
        if process.stdout is not None:
            process.stdout.close()


def _lines(process: "subprocess.Popen[bytes]") -> Iterator[str]:
    assert process.stdout is not None
    for line in process.stdout:
        # Native code writes past Python's redacted streams.
        yield redact(line.decode("utf-8", "replace").rstrip("\r\n"))


def _commands(spec: JobSpec) -> list[list[str]]:
    if not spec.prepare:
        return [_command(spec)]
    program, *arguments = spec.prepare
    return [[sys.executable if program == "python" else program, *arguments], _command(spec)]


def _command(spec: JobSpec) -> list[str]:
    if spec.processes is None:
        # torchrun's agent would only add several seconds of importing torch.
        return [sys.executable, "-m", spec.module, *spec.arguments]
    # With port 0 the agent binds a free port itself, so concurrent jobs cannot race for one. The explicit
    # address avoids a lookup of the machine's own name, which may need a network.
    rendezvous = ["--rdzv-backend=c10d", f"--rdzv-endpoint={_LOOPBACK}:0", f"--local-addr={_LOOPBACK}"]
    group = ["--nnodes=1", f"--nproc-per-node={spec.processes}", "--max-restarts=0"]
    # After --, torchrun does not parse the job's arguments as its own.
    program = ["-m", "--", spec.module, *spec.arguments]
    return [sys.executable, "-m", "torch.distributed.run", *rendezvous, *group, *program]


def _environment(spec: JobSpec) -> dict[str, str]:
    environment = {
        "OMP_NUM_THREADS": str(max(1, available_cores() // (spec.processes or 1))),
        **os.environ,
        "PYTHONUNBUFFERED": "1",
        # After this time torchrun kills its processes.
        "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(_GRACE_S - _AGENT_MARGIN_S),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "GLOO_SOCKET_IFNAME": "lo" if sys.platform == "linux" else "lo0",
    }
    if not _has_gpu(os.environ):
        environment["DS_ACCELERATOR"] = "cpu"
    return environment


def _has_gpu(environment: Mapping[str, str]) -> bool:
    return Path("/dev/nvidiactl").exists() and environment.get("CUDA_VISIBLE_DEVICES") != ""
