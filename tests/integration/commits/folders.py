"""Folders of small files that stand for clips, and their commits."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from llava_av.datasets.commits import Commit, OnConflict
from llava_av.datasets.committing import commit_dataset
from llava_av.datasets.contents import Selection
from llava_av.datasets.extraction import extract
from llava_av.datasets.schema import Sample, parse_sample
from llava_av.storage import ObjectStore

Splits = dict[str, tuple[Sample, ...]]


def sample(number: int, video: str) -> Sample:
    turns = [{"from": "human", "value": "<video>\nWhat?"}, {"from": "gpt", "value": "That."}]
    return parse_sample(json.dumps({"id": f"s{number:04}", "video": video, "conversations": turns}), 1)


def make(root: Path, count: int = 6, *, salt: str = "", size: int = 300) -> Splits:
    (root / "clips").mkdir(parents=True, exist_ok=True)
    samples = []
    for number in range(count):
        content = f"{salt}{number}".encode() * (size // 4)
        (root / "clips" / f"{number}.mp4").write_bytes(content[:size])
        samples.append(sample(number, f"clips/{number}.mp4"))
    return {"train": tuple(samples[:-2]), "held_out": tuple(samples[-2:])}


def tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def media(root: Path) -> dict[str, bytes]:
    return {path: data for path, data in tree(root).items() if path.startswith("clips/")}


def copied(store: ObjectStore, made: Commit, folder: Path, split: str = "") -> Path:
    """Copy a commit or a split of it to a folder, and return the folder."""
    extract(store, made, folder, Selection(split=split))
    return folder


def commit(
    store: ObjectStore,
    root: Path,
    splits: Mapping[str, Sequence[Sample]],
    name: str = "d",
    on_conflict: OnConflict = "fail",
) -> Commit:
    return commit_dataset(store, name, root, splits, (), on_conflict=on_conflict)
