"""Guard that runs a command so that none of its processes outlives the caller.

`python -m llava_av.processes.guard [--parent PID] [--grace SECONDS] [--cwd FOLDER] -- COMMAND…` runs COMMAND
in its own session. When the lifeline in the environment or the process PID ends, every process below COMMAND
is killed, including those that created their own sessions, as torchrun's workers do. SIGTERM, SIGINT and
SIGHUP are forwarded; processes that still run SECONDS later are killed. The exit code is COMMAND's, or
128 + the number of the signal that ended it.
"""

import argparse
import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import IO, TYPE_CHECKING

from llava_av.processes.lifeline import LIFELINE_VARIABLE, call_when_lifeline_ends

if TYPE_CHECKING:
    import psutil

__all__ = ["end_guarded", "guarded_popen", "main"]

_KILLED = 128 + signal.SIGKILL
_NO_SUCH_COMMAND = 127
_GRACE_S = 6.0
_KILL_S = 6.0
_KILL_POLL_S = 0.01
# One is not enough: psutil does not find the children of a process that ends during the search.
_EMPTY_ROUNDS = 2
_PARENT_POLL_S = 1.0
_END_S = 15.0
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h

Stream = int | IO[bytes] | None


def guarded_popen(
    cmd: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    stdout: Stream = None,
    stderr: Stream = None,
    cwd: Path | None = None,
    grace_s: float = _GRACE_S,
    pass_fds: Sequence[int] = (),
    umask: int = -1,
) -> "subprocess.Popen[bytes]":
    """Start `cmd` under a guard and return the guard's process.

    The command ends with this process even if SIGKILL kills this process. Terminating the returned process
    terminates the command (SIGTERM, then SIGKILL after a few seconds); killing it kills the command on Linux.

    Args:
        cmd: Program and arguments.
        env: Complete environment of the command; that of this process if None.
        stdout: As in `subprocess.Popen`.
        stderr: As in `subprocess.Popen`.
        cwd: Working folder of the command.
        grace_s: Seconds between SIGTERM and SIGKILL; 0 kills immediately.
        pass_fds: Descriptors that stay open in the guard, not in the command, until the command has ended.
        umask: As in `subprocess.Popen`.
    """
    options = ["--parent", str(os.getpid()), "--grace", str(grace_s)]
    # The guard itself stays in this folder, because PYTHONPATH may be relative.
    options += [] if cwd is None else ["--cwd", str(cwd)]
    guard = [sys.executable, "-m", "llava_av.processes.guard", *options, "--"]
    # Its own session: Ctrl-C in a terminal reaches only the parent, which ends its children in order.
    return subprocess.Popen(
        [*guard, *cmd],
        env=dict(os.environ if env is None else env),
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        start_new_session=True,
        pass_fds=pass_fds,
        umask=umask,
    )


def end_guarded(process: "subprocess.Popen[bytes]") -> None:
    """End a process that `guarded_popen` started, if it still runs, and wait for it."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(_END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def main(arguments: Sequence[str]) -> int:
    """Run the command after `--` and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m llava_av.processes.guard")
    parser.add_argument("--parent", type=int)
    parser.add_argument("--grace", type=float, default=_GRACE_S)
    parser.add_argument("--cwd")
    split = list(arguments).index("--")
    options, command = parser.parse_args(arguments[:split]), list(arguments[split + 1 :])
    prctl = _linux_prctl()
    prctl(_PR_SET_CHILD_SUBREAPER, 1)
    try:
        child = subprocess.Popen(
            command,
            cwd=options.cwd,
            start_new_session=True,
            preexec_fn=lambda: prctl(_PR_SET_PDEATHSIG, signal.SIGKILL),
        )
    except OSError as error:
        sys.stderr.write(f"cannot start {command[0]}: {error.strerror}\n")
        return _NO_SUCH_COMMAND
    _pass_signals_to(child, options.grace)
    _watch(options.parent, lambda: _end_now(child))
    code = child.wait()
    _kill_tree(child)
    return code if code >= 0 else 128 - code


def _linux_prctl() -> Callable[[int, int], object]:
    """Return Linux's prctl(option, value); on other systems a function that does nothing.

    As child subreaper the guard becomes the parent of orphans below it and can find them; with a parent-death
    signal the command does not outlive a guard that is killed itself.
    """
    if sys.platform != "linux":
        return lambda option, value: None
    prctl = ctypes.CDLL(None).prctl
    return lambda option, value: prctl(option, value, 0, 0, 0)


def _pass_signals_to(child: "subprocess.Popen[bytes]", grace_s: float) -> None:
    def forward(number: int, frame: FrameType | None) -> None:
        if grace_s > 0:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                child.send_signal(number)
        timer = threading.Timer(grace_s, _end_now, [child])
        timer.daemon = True
        timer.start()

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, forward)


def _watch(parent: int | None, action: Callable[[], None]) -> None:
    lifeline = os.environ.get(LIFELINE_VARIABLE)
    if lifeline:
        call_when_lifeline_ends(lifeline, action)
    if parent is not None:
        threading.Thread(target=_wait_for_parent, args=(parent, action), name="parent", daemon=True).start()


def _wait_for_parent(pid: int, action: Callable[[], None]) -> None:
    while os.getppid() == pid:
        time.sleep(_PARENT_POLL_S)
    action()


def _end_now(child: "subprocess.Popen[bytes]") -> None:
    _kill_tree(child)
    os._exit(_KILLED)


def _kill_tree(child: "subprocess.Popen[bytes]") -> None:
    """Kill every process below this one, and the command's group, until none is left."""
    import psutil  # needed only at the end, and too slow to import at the start

    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    me = psutil.Process()
    deadline = time.monotonic() + _KILL_S
    empty_rounds = 0
    while time.monotonic() < deadline and empty_rounds < _EMPTY_ROUNDS:
        below = [process for process in me.children(recursive=True) if _is_alive(process)]
        empty_rounds = 0 if below else empty_rounds + 1
        # A process that forks while it is being killed is found in the next round.
        for process in below:
            with contextlib.suppress(psutil.Error):
                process.kill()
        # If psutil waited for the command itself, its exit code would be lost, and Popen would report 0.
        psutil.wait_procs([process for process in below if process.pid != child.pid], timeout=0.2)
        time.sleep(_KILL_POLL_S)


def _is_alive(process: "psutil.Process") -> bool:
    import psutil

    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
