"""What every test shares."""

import os
from collections import defaultdict
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import settings

from llava_av.processes import uncollected_imports

# xdist gives each core a process; threads of torch on top of that only get in each other's way.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# The same examples on every machine and in every run; a busy machine is no failure.
settings.register_profile("project", deadline=None, derandomize=True)
settings.load_profile("project")

# Files that take a minute and more start first, so that none of them ends last.
_LONGEST = (
    "test_training.py",
    "test_dryrun.py",
    "test_evaluation.py",
    "test_comparison.py",
    "test_services.py",
)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Leave what the collection imports and the five thousand tests to no garbage collector."""
    with uncollected_imports():
        return (yield)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Alternate the files of integration tests, which often wait, with those of unit tests, which compute.

    xdist gives files to its processes in this order, so that one computes while others wait for servers and
    jobs that they started.
    """
    files: dict[Path, list[pytest.Item]] = defaultdict(list)
    for item in items:
        files[item.path].append(item)
    waiting = [path for path in files if path.parent.name == "integration"]
    waiting.sort(key=lambda path: _LONGEST.index(path.name) if path.name in _LONGEST else len(_LONGEST))
    computing = [path for path in files if path.parent.name != "integration"]
    places = {
        path: (number + 0.5) / len(kind) for kind in (waiting, computing) for number, path in enumerate(kind)
    }
    items[:] = [item for path in sorted(places, key=places.__getitem__) for item in files[path]]
