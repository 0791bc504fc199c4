"""Two processes, every engine: parts without media stay as they are; what is not finite is not applied."""

import json
import os
import subprocess
import sys

import pytest

from llava_av.services.ports import free_ports
from tests.mixed_batches import ENGINES

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def tried():
    port = f"--master-port={free_ports(1)[0]}"
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", port]
    settings = {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "-m", "tests.absent_parts"],
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        timeout=800,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))


@pytest.mark.parametrize("engine", ENGINES)
def test_a_part_without_media_is_the_same_bit_for_bit_whatever_the_engine(tried, engine: str) -> None:
    assert set(tried[engine]["everything"]) == {"audio", "language", "newline", "vision"}
    assert tried[engine]["text"] == ["language"]
    assert tried[engine]["audio"] == ["audio", "language"]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("by_part", [True, False])
def test_a_state_with_and_without_groups_of_parts_is_restored_exactly(tried, engine, by_part) -> None:
    assert tried[engine][f"restored, by_part={by_part}"]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("scale", ["nan", "inf"])
def test_gradients_of_one_process_that_are_not_finite_move_nothing(tried, engine: str, scale: str) -> None:
    assert tried[engine][f"times {scale}"] == {"finite": False, "moved": []}
