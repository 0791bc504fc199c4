"""Comparison of a folder with the newest commit of its dataset: name, relation, and samples that move."""

import json
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from llava_av.datasets.commits import Commit
from llava_av.datasets.manifest import blob_key
from llava_av.datasets.schema import Sample
from llava_av.datasets.sources.rows import DatasetError
from llava_av.storage import ObjectMissing, ObjectStore

__all__ = ["Previous", "name_of_folder", "previous_version"]

_NAME_IT = "--name of `data commit`, --dataset-name of `dryrun` and `open-run`"


@dataclass(frozen=True, kw_only=True)
class Previous:
    """Newest commit of a dataset and its samples, for comparison with a new one."""

    commit: Commit
    lines: Mapping[str, str]
    """Split of each sample, by the sample's canonical JSON line."""

    def require_related(self, folder: Path, samples: Sequence[Sample], media: Collection[str]) -> None:
        """Refuse a folder whose name equals that of an unrelated dataset.

        Args:
            folder: Folder to commit.
            samples: Its samples.
            media: Content digests of its media.

        Raises:
            DatasetError: Folder and commit have no media file and no sample in common.
        """
        if {entry.sha256 for entry in self.commit.manifest.files.values()}.intersection(media):
            return
        if any(sample.to_json_line() in self.lines for sample in samples):
            return
        name = self.commit.name
        raise DatasetError(
            f"dataset {name} exists and has no media file and no sample in common with {folder}: give "
            f"another name, or {name} to replace it ({_NAME_IT})"
        )

    def moved(self, splits: Mapping[str, Sequence[Sample]]) -> Counter[str]:
        """Count the samples that changed their split, by their new split."""
        before = {json.loads(line)["id"]: split for line, split in self.lines.items()}
        return Counter(
            split
            for split, samples in splits.items()
            for sample in samples
            if before.get(sample.id, split) != split
        )


def name_of_folder(folder: Path) -> str:
    """Derive a dataset name from a folder's name: lower-case letters, digits and dashes.

    Raises:
        DatasetError: No character of the folder's name is left.
    """
    own = folder.resolve().name
    name = re.sub(r"[^a-z0-9]+", "-", own.lower()).strip("-")
    if not name:
        raise DatasetError(
            f"cannot derive a dataset name from the folder's name {own!r}, which has no letter a-z and no "
            f"digit: give one ({_NAME_IT})"
        )
    return name


def previous_version(store: ObjectStore, commit: Commit) -> Previous:
    """Read the samples of the newest commit of a dataset.

    Raises:
        StoreError: The object store cannot be used.
    """
    return Previous(commit=commit, lines=dict(_lines(store, commit)))


def _lines(store: ObjectStore, commit: Commit) -> Iterator[tuple[str, str]]:
    for split in commit.manifest.splits:
        try:
            content = store.get_bytes(blob_key(commit.manifest.list_of(split).sha256))
        except ObjectMissing:
            # The next commit restores what the store has lost.
            continue
        for line in content.decode("utf-8").split("\n"):
            if line:
                yield line, split
