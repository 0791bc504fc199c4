"""A bucket of each test's own, and a folder with two clips."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from llava_av.storage import ObjectStore
from tests.media_samples import click, write_grey_clip


@pytest.fixture
def store(store_environment: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    for name, value in store_environment.items():
        monkeypatch.setenv(name, value)
    made = ObjectStore.from_env()
    made.ensure_bucket()
    return made


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    folder = tmp_path / "My Clips"
    folder.mkdir()
    for name, at_s in (("a", 0.5), ("b", 1.0)):
        write_grey_clip(folder / f"{name}.mp4", click(at_s))
    lines = [
        {
            "id": f"sample-{index}",
            "video": f"{'ab'[index // 2]}.mp4",
            "conversations": [
                {"from": "human", "value": f"<video>\nWhat {index}?"},
                {"from": "gpt", "value": "grey"},
            ],
        }
        for index in range(4)
    ]
    (folder / "conversations.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder
