"""Damaged files give a result or a one-line error, in bounded time and memory."""

from pathlib import Path

import pytest

from tests.fuzz.run import Fuzzer, corpus

# Beside other work it exceeds the default limit of five minutes.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def test_damaged_files_are_read_or_refused_in_one_line(tmp_path: Path) -> None:
    """The same 3,000 inputs each time; `make fuzz` reads others for as long as it is told."""
    (tmp_path / "corpus").mkdir()
    fuzzer = Fuzzer(corpus(tmp_path / "corpus"), tmp_path)
    try:
        fuzzer.fuzz(rounds_from=0, rounds=60)
    finally:
        fuzzer.stop()
    assert fuzzer.inputs.total() == 3_000
    assert not fuzzer.found
