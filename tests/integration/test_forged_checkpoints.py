"""Write access to the bucket does not allow running code in a training job."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

ROOT = Path(__file__).resolve().parents[2]


def test_no_file_of_an_engines_state_runs_what_it_says(tmp_path: Path) -> None:
    alone = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "0",
        "RANK": "0",
        "WORLD_SIZE": "1",
        "LOCAL_RANK": "0",
    }
    settings = {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "tests.forged_files", str(tmp_path)],
        env={**os.environ, **alone, **settings},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"engine"')]
    whole = [one for one in found if one["kind"] == "none"]
    assert [one["engine"] for one in whole] == ["torch", "zero 1", "zero 2", "zero 3"]
    assert all(one["error"] == "" for one in whole)
    forged = [one for one in found if one["kind"] != "none"]
    # Each engine's every file: its ranges, buffers, generators and the index.
    assert len({(one["engine"], one["file"]) for one in forged}) == 16
    for one in forged:
        expected = "index.json is damaged" if one["file"] == "index.json" else "not a safetensors file"
        assert expected in one["error"], one
        assert len(one["error"].splitlines()) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"torch", "zero-1", "zero-2", "zero-3"}
