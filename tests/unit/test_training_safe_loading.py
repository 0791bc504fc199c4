"""Files of the training state as data: enumerations as every Python pickles them, no other `getattr`."""

import os
import subprocess
import sys
from enum import IntEnum
from pathlib import Path

import pytest
import torch

from llava_av.checkpoints import CheckpointError
from llava_av.training.safe_loading import load_data, loading_from


class Stage(IntEnum):
    two = 2


class Call:
    """Pickled as a call of `getattr`."""

    def __init__(self, *arguments: object) -> None:
        self.arguments = arguments

    def __reduce__(self) -> tuple[object, ...]:
        return getattr, self.arguments


def test_an_enumeration_that_is_pickled_by_getattr_is_read(tmp_path: Path) -> None:
    torch.save({"stage": Call(Stage, "two")}, tmp_path / "state.pt")
    assert load_data(tmp_path / "state.pt", classes=[Stage]) == {"stage": Stage.two}


@pytest.mark.parametrize(
    "arguments", [(Stage, "__init__"), ("text", "upper"), (os.path.join, "__globals__"), (Stage, "mro")]
)
def test_getattr_of_anything_else_is_refused(tmp_path: Path, arguments: tuple[object, ...]) -> None:
    torch.save({"stage": Call(*arguments)}, tmp_path / "state.pt")
    with (
        pytest.raises(CheckpointError, match=r"file state\.pt does not hold data alone"),
        loading_from("s3://b/c"),
    ):
        load_data(tmp_path / "state.pt", classes=[Stage])


# The process may allocate 16 MiB more; the file's tensor needs 48.
LOAD_WITHOUT_MEMORY = """
import resource, sys, torch
from pathlib import Path
from llava_av.training.safe_loading import load_data, loading_from
pages = int(Path("/proc/self/statm").read_text().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 2**24,) * 2)
try:
    with loading_from("s3://b/c"):
        load_data(Path(sys.argv[1]))
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux to limit memory")
def test_memory_that_runs_out_is_no_fault_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    torch.save({"weight": torch.zeros(48 * 2**20, dtype=torch.uint8)}, path)
    done = subprocess.run(
        [sys.executable, "-c", LOAD_WITHOUT_MEMORY, str(path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("RuntimeError ")
    assert "can't allocate memory" in done.stdout
    path.write_bytes(path.read_bytes()[:1000])
    with (
        pytest.raises(CheckpointError, match=r"state\.pt does not hold data alone \(RuntimeError"),
        loading_from("s3://b/c"),
    ):
        load_data(path)
