"""Cost of commands that use an embedded S3 server, and DVC as the other side of a comparison."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from llava_av.storage import ObjectStore

__all__ = ["Cost", "Dvc", "measured"]


@dataclass(frozen=True)
class Cost:
    """Seconds of some processes, CPU seconds of them and of the server, and the peak of their memory."""

    what: str
    wall_s: float
    cpu_s: float
    server_cpu_s: float
    peak_mb: float

    def __str__(self) -> str:
        seconds = (f"{one:.2f}" for one in (self.wall_s, self.cpu_s, self.server_cpu_s))
        return f"| {self.what} | {' | '.join(seconds)} | {self.peak_mb:.0f} |"


def measured(
    what: str, *commands: list[str], environment: Mapping[str, str], folder: Path | None = None
) -> Cost:
    """Run commands in a folder and return their cost.

    Raises:
        RuntimeError: A command failed.
    """
    server_s, began, cpu_s, peak = _server_cpu_s(), time.monotonic(), 0.0, 0.0
    for command in commands:
        process = subprocess.Popen(
            command, env={**os.environ, **environment}, stdout=subprocess.PIPE, text=True, cwd=folder
        )
        assert process.stdout is not None
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise RuntimeError(f"{what} failed: {output}")
        cpu_s += usage.ru_utime + usage.ru_stime
        # Bytes on macOS, KiB elsewhere.
        peak = max(peak, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6)
    return Cost(what, time.monotonic() - began, cpu_s, _server_cpu_s() - server_s, peak)


def _server_cpu_s() -> float:
    found = 0.0
    for child in psutil.Process().children(recursive=True):
        times = child.cpu_times()
        found += times.user + times.system
    return found


class Dvc:
    """DVC with a copy of a folder, and the same server as remote.

    Args:
        program: Program of DVC.
        folder: Folder to copy.
        work: Folder of the copy.
        environment: Variables of the server.
    """

    def __init__(self, program: Path, folder: Path, work: Path, environment: Mapping[str, str]) -> None:
        self._program, self._environment, self._home = str(program), environment, work / "dvc"
        self.folder = self._home / "folder"
        shutil.copytree(folder, self.folder)
        store = ObjectStore.from_env(environment).in_bucket("dvc")
        store.ensure_bucket()
        remote = ["remote", "add", "--default", "store", store.uri(work.name)]
        for arguments in (
            ["init", "--no-scm"],
            remote,
            ["remote", "modify", "store", "endpointurl", store.endpoint],
        ):
            self("setup", arguments)

    def __call__(self, what: str, *commands: list[str], folder: Path | None = None) -> Cost:
        """Run commands of DVC."""
        lines = [[self._program, *command, "--quiet"] for command in commands]
        return measured(f"DVC: {what}", *lines, environment=self._environment, folder=folder or self._home)

    def add(self, what: str) -> Cost:
        """Add and push the folder."""
        return self(what, ["add", "folder"], ["push"])

    def pull(self, what: str) -> Cost:
        """Pull the folder into another repository."""
        clone = self._home.with_name("clone")
        clone.mkdir()
        shutil.copy(self._home / "folder.dvc", clone)
        shutil.copytree(self._home / ".dvc", clone / ".dvc", ignore=shutil.ignore_patterns("cache", "tmp"))
        return self(what, ["pull"], folder=clone)
