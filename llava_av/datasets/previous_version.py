"""Comparison of a folder with the newest commit of its dataset: name, relation, and samples that move."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from llava_av.datasets.commits import Commit
from llava_av.datasets.ranges import SampleLine
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
        lines = {line.text for split in new.splits for line in new.samples(split)}
        if any(line.text in lines for split in self.content.splits for line in self.content.samples(split)):
            return
        name = self.commit.name
        raise DatasetError(
            f"dataset {name} exists and has no media file and no sample in common with {folder}: give "
            f"another name, or {name} to replace it ({_NAME_IT})"
        )

    def moved(self, new: ContentReader) -> Counter[str]:
        """Count the samples that changed their split, by their new split; errors as for `require_related`."""
        now = {line.id: split for split, line in _lines(new, self.content)}
        return Counter(
            now[line.id] for before, line in _lines(self.content, new) if now.get(line.id, before) != before
        )


def _lines(own: ContentReader, other: ContentReader) -> Iterator[tuple[str, SampleLine]]:
    """Yield the split and the line of samples in ranges that the other content does not have."""
    for split in own.splits:
        known = other.samples(split).digests if split in other.splits else frozenset()
        for line in own.samples(split).except_for(known):
            yield split, line


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
