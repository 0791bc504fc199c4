"""Groups of a job's processes, forked from one that has imported what each of them imports.

Importing torch, transformers and DeepSpeed takes a process 6 to 8 s of CPU time, more than most tests need
for their work. `ForkServer` imports them once. `ForkedLauncher` differs from `LocalLauncher` in how processes
start: without torchrun, whose store of the group the tests replace. Processes run the same module with the
same arguments and variables, and write the same log.
"""

import contextlib
import fcntl
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TextIO

import psutil

from llava_av.launch import JobResult, JobSpec, LaunchError
from llava_av.launch.log_cause import failure_cause
from llava_av.processes import exit_without_teardown, uncollected_imports

ROOT = Path(__file__).resolve().parent.parent
_IMPORTED = (
    "deepspeed",
    "llava_av.evaluation.runner",
    "llava_av.tracking.mlflow_run",
    "llava_av.training.job",
)
_LOOPBACK = "127.0.0.1"
_POLL_S = 0.02
# Of the log of a group that failed, which a machine that only keeps pytest's output would lose.
_NOTED_LINES = 80
_FOLDER_VARIABLE = "TESTS_SESSION_FOLDER"
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


@contextlib.contextmanager
def session_folder() -> Iterator[None]:
    """Provide the folder of a test session, by which its processes find the fork server."""
    with tempfile.TemporaryDirectory(prefix="llava-av-tests-") as folder:
        os.environ[_FOLDER_VARIABLE] = folder
        (_session_folder() / "owner").write_text(str(os.getpid()))
        yield


def _session_folder() -> Path:
    return Path(os.environ[_FOLDER_VARIABLE])


class ForkServer:
    """A process that others are forked from, started for the first group; a test session has one."""

    def __init__(self) -> None:
        self._pids: list[int] = []

    def ranks(self) -> list[psutil.Process]:
        """Return the processes of the group that runs, by rank."""
        return [psutil.Process(pid) for pid in self._pids]

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
            timeout_s: Time limit, after which the group is killed.

        Returns:
            The exit code of the process that failed first, or 0.
        """
        log.write_text("")
        self._pids = []
        with _variables(processes) as each, self._connection() as connection:
            environments = [{**os.environ, **_VARIABLES, **one} for one in each]
            request = {"module": module, "arguments": arguments, "log": str(log), "processes": environments}
            # The server kills the group when the connection is closed.
            connection.sendall(json.dumps(request).encode() + b"\n")
            connection.settimeout(timeout_s)
            with connection.makefile() as answers:
                try:
                    self._pids = json.loads(answers.readline())
                    return int(json.loads(answers.readline()))
                except TimeoutError:
                    raise AssertionError(f"the group did not end within {timeout_s} s") from None

    def _connection(self) -> socket.socket:
        path = _session_folder() / "forks"
        with (_session_folder() / "forks.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists():
                self._start(path)
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(path))
        return connection

    def _start(self, path: Path) -> None:
        """Start the server, which listens before it imports anything."""
        command = [sys.executable, "-W", "ignore", "-m", "tests.forked_group", str(path)]
        environment = {**os.environ, **_VARIABLES}
        log = path.with_suffix(".log")
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        while not path.exists():
            assert process.poll() is None, log.read_text()
            time.sleep(0.01)


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
            error = LaunchError(f"{spec.name} failed: {failure_cause(lines, code)} (log: {log})")
            error.add_note("\n".join(lines[-_NOTED_LINES:]))
            raise error
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


def serve(path: Path) -> None:
    """Run requested groups, each below a process of its own, until the session ends."""
    owner = int(path.with_name("owner").read_text())
    listener = socket.socket(socket.AF_UNIX)
    part = path.with_suffix(".part")
    listener.bind(str(part))
    listener.listen()
    part.rename(path)
    listener.settimeout(1)
    with uncollected_imports():
        for name in _IMPORTED:
            importlib.import_module(name)
    while path.exists() and psutil.pid_exists(owner):
        with contextlib.suppress(TimeoutError):
            connection, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                _lead(connection)
            connection.close()
        with contextlib.suppress(ChildProcessError):
            os.waitpid(-1, os.WNOHANG)


def _lead(connection: socket.socket) -> NoReturn:
    """Run the group that is requested, and answer with its exit code."""
    os.setpgid(0, 0)
    with connection.makefile() as lines:
        request = json.loads(lines.readline())
    pids = [_forked(request, environment, connection) for environment in request["processes"]]
    connection.sendall(f"{json.dumps(pids)}\n".encode())
    with Path(request["log"]).open("a") as log:
        code = _ended(set(pids), connection, log)
    connection.sendall(f"{code}\n".encode())
    os._exit(0)


def _forked(request: Mapping[str, Any], environment: Mapping[str, str], connection: socket.socket) -> int:
    pid = os.fork()
    if pid:
        return pid
    connection.close()
    log = os.open(request["log"], os.O_WRONLY | os.O_APPEND)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    os.environ.clear()
    os.environ.update(environment)
    exit_without_teardown(_code_of_module(request["module"], request["arguments"]))


def _code_of_module(module: str, arguments: Sequence[str]) -> int:
    """Run a module as Python does, and return the exit code."""
    sys.argv = [module, *arguments]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
            return 1
        return ended.code or 0
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _ended(pids: set[int], connection: socket.socket, log: TextIO) -> int:
    """Wait for processes; when one fails, end the others, and kill all when nobody waits for them."""
    code = 0
    while pids:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid:
            pids.discard(pid)
            failed = os.waitstatus_to_exitcode(status)
            if failed and not code:
                code = failed
                log.write(_end_of(pid, failed))
                log.flush()
                for other in pids:
                    os.kill(other, signal.SIGTERM)
        elif select.select([connection], [], [], _POLL_S)[0]:
            os.killpg(0, signal.SIGKILL)
    return code


def _end_of(pid: int, code: int) -> str:
    """Return the line about the process that failed first, for a signal as torchrun writes it."""
    if code < 0:
        return f"Signal {-code} ({signal.Signals(-code).name}) received by PID {pid}\n"
    return f"process {pid} failed first, with exit code {code}\n"


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
