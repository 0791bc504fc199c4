"""Small folders of still images and audio with conversations, for tests of `llava-av data`."""

import json
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llava_av.datasets.commits import Commit
from llava_av.datasets.file_cache import Stamp
from llava_av.datasets.manifest import blob_key
from llava_av.storage import ObjectStore
from tests.commands import called_here
from tests.media_samples import RATE_HZ, write_audio, write_image

NIGHT = {"id": "night", "image": "night.png", "split": "held_out", "kind": "scene_light"}
DAY = {"id": "day", "image": "day.png", "split": "train", "kind": "scene_light"}
BELL = {"id": "bell", "audio": "media/bell.wav", "split": "train", "kind": "noise"}
SAMPLES = (NIGHT, DAY, BELL)


def line(sample: Mapping[str, Any], answer: str = "It.") -> str:
    """Return the line of a sample with one question."""
    turns = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": answer}]
    return json.dumps({"conversations": turns, **sample}) + "\n"


def write_grey_image(path: Path, shade: int) -> None:
    """Write a grey image of 16 by 8 pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(path, np.full((8, 16, 3), shade, np.uint8), "png")


def write_conversations(folder: Path, samples: Sequence[Mapping[str, Any]] = SAMPLES) -> None:
    """Write the conversations of samples."""
    (folder / "conversations.jsonl").write_text("".join(map(line, samples)))


def write_dataset(folder: Path) -> Path:
    """Write two images and half a second of audio with one sample each."""
    for shade, name in ((40, "night.png"), (200, "day.png")):
        write_grey_image(folder / name, shade)
    (folder / "media").mkdir(exist_ok=True)
    write_audio(folder / "media/bell.wav", np.zeros((1, RATE_HZ // 2), np.float32), RATE_HZ, "pcm_s16le")
    write_conversations(folder)
    return folder


def settled(path: Path) -> Path:
    """Wait until a change of the file, or of a file in the folder, would change its stamp."""
    deadline = time.monotonic() + 10
    for file in filter(Path.is_file, (path, *path.rglob("*"))):
        while not Stamp.of(file).is_settled(time.time_ns()):
            assert time.monotonic() < deadline
            time.sleep(0.01)
    return path


def upload(source: ObjectStore, folder: Path, prefix: str) -> str:
    """Upload a folder, and return the address of its prefix."""
    for path in folder.rglob("*"):
        if path.is_file():
            source.put_file(f"{prefix}/{path.relative_to(folder).as_posix()}", path)
    return source.uri(prefix)


def stored_key(store: ObjectStore, commit: Commit, path: str) -> str:
    """Return the key of the blob of a media file, or of the only range of a split's list."""
    content = commit.reader(store)
    split = path.removesuffix(".jsonl")
    if split in content.splits:
        [one] = content.samples(split).ranges
        return blob_key(one.sha256)
    return blob_key({row.path: row.sha256 for row in content.files}[path])


class DataCommands:
    """`llava-av data` on one store."""

    def __init__(self, environment: Mapping[str, str], output_dir: Path) -> None:
        self._environment = environment
        self._output_dir = output_dir

    def run(self, *arguments: str | Path) -> tuple[int, str]:
        """Run a command and return exit code and output."""
        given = ("data", *map(str, arguments), "--output-dir", str(self._output_dir))
        return called_here(*given, environment=self._environment)

    def text(self, *arguments: str | Path) -> str:
        """Run a command that succeeds, and return its output."""
        code, output = self.run(*arguments)
        assert code == 0, output
        return output

    def json(self, *arguments: str | Path) -> Any:
        """Run a command that succeeds with `--json`, and return its result."""
        output = self.text(*arguments, "--json")
        # Warnings precede the result.
        return json.loads(re.split(r"^(?=[\[{])", output, maxsplit=1, flags=re.MULTILINE)[-1])

    def error(self, *arguments: str | Path) -> str:
        """Run a command that fails, and return its output."""
        code, output = self.run(*arguments)
        assert code == 1, output
        return output
