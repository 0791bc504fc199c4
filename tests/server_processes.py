"""Processes of embedded servers, and commands that hold them."""

import contextlib
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from llava_av.services import service_environment


def wait_until(condition: Callable[[], bool], deadline_s: float) -> None:
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, "deadline passed"
        time.sleep(0.05)


def lives(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def own_children() -> set[psutil.Process]:
    # Not those below them: servers of other tests may start processes at any time.
    return set(psutil.Process().children())


def below(guards: set[psutil.Process]) -> set[psutil.Process]:
    return {process for guard in guards for process in guard.children(recursive=True)}


def embedded(state: Path) -> contextlib.AbstractContextManager[dict[str, str]]:
    return service_environment(state, need_mlflow=False)
