"""Processes that register, promote and roll back at once, each forked from one that knows no server yet."""

import multiprocessing
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from llava_av.errors import UserError
from llava_av.registry import aliases, versions
from llava_av.registry.history import AliasHistory, Move
from llava_av.runs import GateDecision
from llava_av.storage import ObjectStore
from llava_av.tracking.connection import MlflowError
from llava_av.workflows.promote import promote_step
from llava_av.workflows.register import register_step
from llava_av.workflows.runtime.workspace import Workspace

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.integration.promoters"])
WAIT_S = 240.0


def at_once(
    work: Callable[..., None], environment: Mapping[str, str], model: str, each: list[tuple[Any, ...]]
) -> list[str]:
    """Run `work` in one process per tuple of arguments, all at once; return `won` or the error of each."""
    results, barrier = PROCESSES.Queue(), PROCESSES.Barrier(len(each))
    shared = (work, dict(environment), model, results, barrier)
    processes = [
        PROCESSES.Process(target=_one, args=(*shared, place, given)) for place, given in enumerate(each)
    ]
    for process in processes:
        process.start()
    found = dict(results.get(timeout=WAIT_S) for _ in processes)
    for process in processes:
        process.join(WAIT_S)
        assert process.exitcode == 0
    return [found[place] for place in range(len(each))]


def promote(history: AliasHistory, version: str, before: str, recorded: Any, killed: Any) -> None:
    """Promotes, and between the record and MLflow waits until the server has been killed."""
    _wait_for_kill(aliases, "settle", recorded, killed)
    about = {"before": before, "reason": f"test of {version}", "by": f"process {os.getpid()}"}
    _patiently(lambda: aliases.promote(history, version, GateDecision(passed=True), **about))


def register(history: AliasHistory, run: str, folder: Path, searched: Any, killed: Any) -> None:
    """Run the step, which waits for the server's kill between finding and creating the version."""
    _wait_for_kill(versions, "_create", searched, killed)
    _patiently(lambda: register_step(Workspace(folder=folder), run))


def judge(history: AliasHistory, run: str, folder: Path, judged: Any, recorded: Any, killed: Any) -> None:
    """Run the promotion: all decide before one moves, and the server is killed before MLflow follows."""
    append = AliasHistory.append

    def append_when_all_have_judged(which: AliasHistory, move: Move) -> None:
        judged.wait(WAIT_S)
        append(which, move)

    AliasHistory.append = append_when_all_have_judged  # type: ignore[method-assign]
    _wait_for_kill(aliases, "settle", recorded, killed)
    _patiently(lambda: promote_step(Workspace(folder=folder), run))


def _wait_for_kill(module: Any, name: str, reached: Any, killed: Any) -> None:
    """Lets a function of a module say that it was reached, and go on when the server has been killed."""
    work = getattr(module, name)

    def without_server(*arguments: Any) -> Any:
        reached.set()
        assert killed.wait(WAIT_S)
        return work(*arguments)

    setattr(module, name, without_server)


def roll_back(history: AliasHistory, to: str) -> None:
    aliases.roll_back(history, to=to, reason=f"worse, says process {os.getpid()}", by="test")


def _patiently(work: Callable[[], None]) -> None:
    """As a person would who is told that MLflow does not answer just now."""
    deadline = time.monotonic() + WAIT_S
    while True:
        try:
            return work()
        except MlflowError as error:
            if not error.transient or time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def _one(
    work: Callable[..., None],
    environment: dict[str, str],
    model: str,
    results: Any,
    barrier: Any,
    place: int,
    given: tuple[Any, ...],
) -> None:
    os.environ.update(environment)
    history = AliasHistory(ObjectStore.from_env(), model)
    barrier.wait(WAIT_S)
    try:
        work(history, *given)
        results.put((place, "won"))
    except UserError as error:
        results.put((place, str(error)))
