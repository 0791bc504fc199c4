"""A record in a folder of each test's own."""

from pathlib import Path

import pytest

from tests.unit.experiments.records import RECORD


@pytest.fixture
def path(tmp_path: Path) -> Path:
    folder = tmp_path / "experiments"
    folder.mkdir()
    (folder / "tones.md").write_text(RECORD)
    return folder / "tones.md"
