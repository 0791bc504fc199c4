"""Write access to the bucket does not allow running code in a training job."""

import json
from pathlib import Path

import pytest

from tests.forked_group import ForkServer

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


def test_no_file_of_an_engines_state_runs_what_it_says(forks: ForkServer, tmp_path: Path) -> None:
    log, folder = tmp_path / "log", tmp_path / "saved"
    folder.mkdir()
    code = forks.run_module("tests.forged_files", [str(folder)], log=log, processes=1, timeout_s=240)
    lines = log.read_text().splitlines()
    assert code == 0, lines
    found = [json.loads(line) for line in lines if line.startswith('{"engine"')]
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
    assert {path.name for path in folder.iterdir()} == {"torch", "zero-1", "zero-2", "zero-3"}
