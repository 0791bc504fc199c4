"""Helpers that run `llava-av` as a user does and track all processes that it starts."""

import contextlib
import os
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil
from typer.testing import CliRunner

from llava_av.cli.app import app
from llava_av.errors import explain

ROOT = Path(__file__).resolve().parent.parent
MARK = "LLAVA_AV_TEST_MARK"
GONE_S = 15.0
# Seconds of training with several checkpoints.
TINY = (
    "--set=data.demo_train_blocks=2",
    "--set=data.demo_held_out_blocks=1",
    "--set=training.steps=12",
    "--set=training.checkpoint_interval=4",
    "--set=training.global_batch_size=16",
    "--set=evaluation.bootstrap_draws=200",
)
_SERVERS = ("AWS_", "MLFLOW_", "LLAVA_AV_")


class Command:
    """A running `llava-av` with a marker in its environment, by which all its descendants are found."""

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        log: Path,
        prefix: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.mark = uuid.uuid4().hex
        self.log = log
        kept = {name: value for name, value in os.environ.items() if not name.startswith(_SERVERS)}
        variables = {**kept, "PYTHONPATH": str(ROOT), MARK: self.mark, **(environment or {})}
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                [*prefix, sys.executable, "-m", "llava_av", *arguments],
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                cwd=log.parent,
                start_new_session=True,
            )

    def wait(self, timeout_s: float) -> int:
        """Wait for the end of the command and return its exit code."""
        return self.process.wait(timeout_s)

    def output(self) -> str:
        """Return the output so far."""
        return self.log.read_text(errors="replace")

    def wait_until(self, condition: Callable[[], bool], timeout_s: float) -> None:
        """Poll until `condition` holds; fail if the command ends first."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert self.process.poll() is None, f"the command ended too early:\n{self.output()}"
            assert time.monotonic() < deadline, f"timeout after {timeout_s} s:\n{self.output()}"
            time.sleep(0.05)

    def left_running(self) -> list[str]:
        """Return the command lines of its running processes."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                alive = process.status() != psutil.STATUS_ZOMBIE
                if alive and process.environ().get(MARK) == self.mark:
                    found.append(" ".join(process.cmdline())[:200])
        return found

    def assert_gone(self) -> None:
        """Wait for at most `GONE_S` until none of its processes runs."""
        deadline = time.monotonic() + GONE_S
        while (left := self.left_running()) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not left, left


def llava_av(
    arguments: Sequence[str],
    folder: Path,
    *,
    timeout_s: float = 480,
    prefix: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    outlived: bool = False,
) -> tuple[int, str]:
    """Run a command and return exit code and output; unless `outlived`, no process may remain."""
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / f"{arguments[0]}-{uuid.uuid4().hex[:8]}.log"
    command = Command(arguments, log=log, prefix=prefix, environment=environment)
    try:
        code = command.wait(timeout_s)
    except subprocess.TimeoutExpired:
        command.process.kill()
        raise AssertionError(f"{arguments} took over {timeout_s} s:\n{command.output()}") from None
    if not outlived:
        command.assert_gone()
    return code, command.output()


def called_here(*arguments: str, environment: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Run a command in this process and return exit code and output, as `llava_av` does.

    A process of its own spends 2 s on imports, and 8 s for a command that needs torch.
    """
    unset = {name: None for name in os.environ if name.startswith(_SERVERS)}
    result = CliRunner().invoke(app, arguments, env={**unset, **(environment or {})})
    if result.exception is None or isinstance(result.exception, SystemExit):
        return result.exit_code, result.output
    line = explain(result.exception)
    if line is None:
        raise result.exception
    return result.exit_code, f"{result.output}error: {line}\n"


def trained_steps(output_dir: Path) -> int:
    """Return the number of optimizer steps in the journal of a running job."""
    journals = (output_dir / "state" / "work").glob("*/metrics.jsonl")
    return max((journal.read_bytes().count(b"\n") for journal in journals), default=0)


def without_network() -> list[str]:
    """Return a prefix that restricts a command to the loopback interface, or none if not permitted."""
    if shutil.which("unshare") is None or shutil.which("ip") is None:
        return []
    flags = "-n" if os.geteuid() == 0 else "-rn"
    prefix = ["unshare", flags, "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
    allowed = subprocess.run([*prefix, "true"], capture_output=True).returncode == 0
    return prefix if allowed else []


def path_without_compilers(folder: Path) -> str:
    """Return a PATH with links to all programs of the PATH except compilers."""
    folder.mkdir()
    for directory in os.environ["PATH"].split(os.pathsep):
        for program in Path(directory).glob("*") if Path(directory).is_dir() else ():
            link = folder / program.name
            if not _is_compiler(program.name) and not link.exists() and not link.is_symlink():
                link.symlink_to(program)
    return str(folder)


def _is_compiler(name: str) -> bool:
    words = ("gcc", "g++", "c++", "cc", "cpp", "clang", "nvcc", "ninja", "ld", "as", "make", "cmake")
    return any(part in words for part in name.replace(".", "-").split("-"))
