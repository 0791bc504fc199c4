"""Groups of a job's processes, forked from one that has imported what each of them imports.

Importing torch, transformers and DeepSpeed takes a process 6 to 8 s of CPU time, more than most tests need
for their work. `ForkServer` imports them once. `ForkedLauncher` differs from `LocalLauncher` in how processes
start: without torchrun, whose store of the group the tests replace. Processes run the same module with the
same arguments and variables, and write the same log.
"""

import contextlib
import functools
import importlib
import json
import os
import runpy
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from llava_av.launch import JobResult, JobSpec, LaunchError
from llava_av.launch.log_cause import failure_cause

ROOT = Path(__file__).resolve().parent.parent
_IMPORTED = (
    "deepspeed",
    "llava_av.evaluation.runner",
    "llava_av.tracking.mlflow_run",
    "llava_av.training.job",
)
_LOOPBACK = "127.0.0.1"
# As `LocalLauncher` sets them on two cores; some are read by imports.
_VARIABLES = {
    "DS_ACCELERATOR": "cpu",
    "GLOO_SOCKET_IFNAME": "lo" if sys.platform == "linux" else "lo0",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": str(ROOT),
    "PYTHONUNBUFFERED": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


class ForkServer:
    """A process that others are forked from, started for the first group."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def run_module(
        self,
        module: str,
        arguments: Sequence[str] = (),
        *,
        log: Path,
        processes: int,
        timeout_s: float | None = None,
    ) -> int:
        """Run `python -m module` in a group of processes with the variables of this one, and write their log.

        Args:
            module: Module.
            arguments: Arguments of the module.
            log: File for the output of all processes.
            processes: Size of the group.
            timeout_s: Time limit, after which the server and the group are killed.

        Returns:
            The exit code of the process that failed first, or 0.
        """
        log.write_text("")
        with _variables(processes) as each:
            environments = [{**os.environ, **_VARIABLES, **one} for one in each]
            request = {"module": module, "arguments": arguments, "log": str(log), "processes": environments}
            return self._run(request, timeout_s)

    def _run(self, request: Mapping[str, Any], timeout_s: float | None) -> int:
        if self._process is None:
            command = [sys.executable, "-W", "ignore", "-m", "tests.forked_group"]
            streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
            environment = {**os.environ, **_VARIABLES}
            self._process = subprocess.Popen(
                command, cwd=ROOT, env=environment, text=True, start_new_session=True, **streams
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            ready, _, _ = select.select([self._process.stdout], [], [], timeout_s)
            assert ready, f"the group did not end within {timeout_s} s"
            return int(self._process.stdout.readline())
        except BaseException:
            self.close()
            raise

    def ranks(self) -> list[psutil.Process]:
        """Return the processes of the group that runs, by rank."""
        assert self._process is not None
        return sorted(psutil.Process(self._process.pid).children(), key=lambda one: one.pid)

    def close(self) -> None:
        """Kill it and its processes."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.communicate()
            self._process = None


@functools.cache
def shared_forks() -> ForkServer:
    """Return the fork server that this process's tests share; it exits when its standard input closes."""
    return ForkServer()


class ForkedLauncher:
    """A launcher of groups on this machine, for tests that are not about torchrun."""

    def __init__(self, server: ForkServer, logs: Path) -> None:
        self._server = server
        self._logs = logs

    def run(self, spec: JobSpec, *, on_line: Callable[[str], None] | None = None) -> JobResult:
        """Run `spec` and wait for it; see `Launcher.run`."""
        started = time.monotonic()
        self._logs.mkdir(parents=True, exist_ok=True)
        log = self._logs / f"{spec.name}.log"
        code = self._server.run_module(spec.module, spec.arguments, log=log, processes=spec.processes or 1)
        lines = log.read_text(errors="replace").splitlines()
        for line in lines if on_line is not None else ():
            on_line(line)
        if code:
            raise LaunchError(f"{spec.name} failed: {failure_cause(lines, code)} (log: {log})")
        return JobResult(seconds=time.monotonic() - started)


@contextlib.contextmanager
def _variables(processes: int) -> Iterator[list[dict[str, str]]]:
    """Yield the variables that torchrun sets for each process, while the store of the group answers."""
    from torch.distributed import TCPStore

    store = TCPStore(_LOOPBACK, 0, is_master=True, wait_for_workers=False)
    group = {
        "GROUP_RANK": "0",
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": _LOOPBACK,
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_RESTART_COUNT": "0",
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "WORLD_SIZE": str(processes),
    }
    yield [{**group, "LOCAL_RANK": str(rank), "RANK": str(rank)} for rank in range(processes)]
    del store


def serve() -> None:
    """Run the requested groups one after the other; call it in a process without other Python threads."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for name in _IMPORTED:
        importlib.import_module(name)
    while line := sys.stdin.readline():
        request = json.loads(line)
        pids = {_forked(request, environment) for environment in request["processes"]}
        print(_ended(pids), file=answers, flush=True)


def _forked(request: Mapping[str, Any], environment: Mapping[str, str]) -> int:
    pid = os.fork()
    if pid:
        return pid
    log = os.open(request["log"], os.O_WRONLY | os.O_APPEND)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    os.environ.clear()
    os.environ.update(environment)
    _run_module(request["module"], request["arguments"])
    sys.exit(0)


def _run_module(module: str, arguments: Sequence[str]) -> None:
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _ended(pids: set[int]) -> int:
    """Wait for processes; when one fails, end the others."""
    code = 0
    while pids:
        pid, status = os.wait()
        pids.discard(pid)
        failed = os.waitstatus_to_exitcode(status)
        if failed and not code:
            code = failed
            for other in pids:
                os.kill(other, signal.SIGTERM)
    return code


if __name__ == "__main__":
    serve()
