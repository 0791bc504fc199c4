"""Comparison of a folder with the newest commit of its dataset: name, relation, and samples that move."""

import heapq
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path

from llava_av.datasets.commits import Commit
from llava_av.datasets.reading import ContentReader
from llava_av.datasets.sources.rows import DatasetError

__all__ = ["Previous", "name_of_folder"]

_NAME_IT = "--name of `data commit`, --dataset-name of `run` and `open-run`"


@dataclass(frozen=True, kw_only=True)
class Previous:
    """Newest commit of a dataset, for comparison with a new one."""

    commit: Commit
    content: ContentReader
    """Its samples and files."""

    def require_related(self, folder: object, new: ContentReader) -> None:
        """Refuse a folder whose name equals that of an unrelated dataset.

        Args:
            folder: Folder to commit.
            new: Its content.

        Raises:
            DatasetError: Folder and commit have no media file and no sample in common.
            CommitError: A list of the commit is lost or damaged.
        """
        digests = {row.sha256 for row in new.files}
        if any(row.sha256 in digests for row in self.content.files):
            return
        # Hashes, because the lines may not fit in memory.
        lines = {hash(line.text) for split in new.splits for line in new.samples(split)}
        if any(
            hash(line.text) in lines for split in self.content.splits for line in self.content.samples(split)
        ):
            return
        name = self.commit.name
        raise DatasetError(
            f"dataset {name} exists and has no media file and no sample in common with {folder}: give "
            f"another name, or {name} to replace it ({_NAME_IT})"
        )

    def moved(self, new: ContentReader) -> Counter[str]:
        """Count the samples that changed their split, by their new split; errors as for `require_related`."""
        both = heapq.merge(*_splits(0, self.content, new), *_splits(1, new, self.content))
        moved: Counter[str] = Counter()
        for _, found in groupby(both, key=itemgetter(0)):
            splits = [split for _, _, split in found]
            if len(set(splits)) > 1:
                moved[splits[-1]] += 1
        return moved


def _splits(age: int, own: ContentReader, other: ContentReader) -> list[Iterator[tuple[str, int, str]]]:
    """Return for each split the IDs in ranges that the other content does not have, with `age` and split."""

    def of(split: str) -> Iterator[tuple[str, int, str]]:
        known = other.samples(split).digests if split in other.splits else frozenset()
        return ((line.id, age, split) for line in own.samples(split).except_for(known))

    return list(map(of, own.splits))


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
