"""Errors of loading the files of a checkpoint: one line for a file, none for the machine."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from llava_av.checkpoints import CheckpointError
from llava_av.checkpoints.shard_files import ShardReader, read_tensors, write_tensors
from llava_av.checkpoints.shard_index import ShardIndex
from llava_av.training.safe_loading import loading_from


def test_a_file_that_is_cut_off_is_named_by_its_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    write_tensors(path, {"weight": torch.ones(100)})
    path.write_bytes(path.read_bytes()[:100])
    with (
        pytest.raises(CheckpointError, match=r"s3://b/c: .*not a safetensors file"),
        loading_from("s3://b/c"),
    ):
        read_tensors(path)


@pytest.mark.parametrize(
    "tensor", [torch.ones(7), torch.ones(8, dtype=torch.float64), torch.ones(2, 4), None], ids=str
)
def test_tensors_of_another_form_are_refused(tmp_path: Path, tensor: torch.Tensor | None) -> None:
    write_tensors(tmp_path / "state/a", {} if tensor is None else {"weight/w": tensor})
    index = ShardIndex(processes=1, updates={"w": 0.0}, frozen={}, files={"state/a": {"w": (0, 8)}})
    with (
        pytest.raises(CheckpointError, match="s3://b/c"),
        loading_from("s3://b/c"),
        ShardReader(tmp_path, index) as reader,
    ):
        reader.read_into(torch.zeros(8), "weight", "w", 0)


# The process may allocate 16 MiB more; the file's tensor needs 48.
LOAD_WITHOUT_MEMORY = """
import resource, sys, torch
from pathlib import Path
from llava_av.checkpoints.shard_files import read_tensors
from llava_av.training.safe_loading import loading_from
pages = int(Path("/proc/self/statm").read_text().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 2**24,) * 2)
try:
    with loading_from("s3://b/c"):
        torch.cat(list(read_tensors(Path(sys.argv[1])).values()))
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux to limit memory")
def test_memory_that_runs_out_is_no_fault_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    write_tensors(path, {"weight": torch.zeros(48 * 2**20, dtype=torch.uint8)})
    done = subprocess.run(
        [sys.executable, "-c", LOAD_WITHOUT_MEMORY, str(path)], capture_output=True, text=True, check=True
    )
    assert "checkpoint" not in done.stdout
    assert "memory" in done.stdout
