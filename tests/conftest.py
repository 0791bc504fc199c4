"""Fixtures and settings that all tests share."""

import contextlib
import os
from collections import defaultdict
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import settings
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

from llava_av.processes import uncollected_imports
from tests.forked_group import session_folder

# xdist gives each core a process; threads of torch on top of that only get in each other's way.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# The same examples on every machine and in every run; a busy machine is no failure.
settings.register_profile("project", deadline=None, derandomize=True)
settings.load_profile("project")

# Those that take a minute and more start first, so that none of them ends last.
_LONGEST = ("training", "test_dryrun.py", "test_evaluation.py", "comparison", "test_services_ending.py")
_ROOT = Path(__file__).parent


class _FolderScheduling(LoadFileScheduling):
    """Scheduler that gives the tests of a file, or of a folder below tests/KIND, to one process."""

    def _split_scope(self, nodeid: str) -> str:
        return "/".join(nodeid.partition("::")[0].split("/")[:3])


def pytest_configure(config: pytest.Config) -> None:
    """Give the session a folder; its processes inherit the variable that names it."""
    if not hasattr(config, "workerinput"):
        stack = contextlib.ExitStack()
        stack.enter_context(session_folder())
        config.add_cleanup(stack.close)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadFileScheduling | None:
    """Keep the fixtures that a folder shares in one process, as `--dist loadfile` does for a file."""
    return _FolderScheduling(config, log) if config.getoption("dist") == "loadfile" else None


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Leave what the collection imports and the five thousand tests to no garbage collector."""
    with uncollected_imports():
        return (yield)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Alternate integration tests, which often wait, with unit tests, which compute.

    xdist gives files and folders to its processes in this order, so that one computes while others wait for
    servers and jobs that they started.
    """
    shared: dict[tuple[str, ...], list[pytest.Item]] = defaultdict(list)
    for item in items:
        shared[item.path.relative_to(_ROOT).parts[:2]].append(item)
    waiting = [place for place in shared if place[0] == "integration"]
    waiting.sort(key=lambda place: _LONGEST.index(place[1]) if place[1] in _LONGEST else len(_LONGEST))
    computing = [place for place in shared if place[0] != "integration"]
    places = {
        place: (number + 0.5) / len(kind)
        for kind in (waiting, computing)
        for number, place in enumerate(kind)
    }
    items[:] = [item for place in sorted(places, key=places.__getitem__) for item in shared[place]]
