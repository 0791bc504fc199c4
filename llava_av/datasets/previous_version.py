"""Comparison of a folder with the newest commit of its dataset: name, relation, and samples that move."""

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from llava_av.datasets.commits import Commit
from llava_av.datasets.ranges import SampleLine
from llava_av.datasets.reading import ContentReader
from llava_av.datasets.schema import Sample
from llava_av.datasets.sources.rows import DatasetError

__all__ = ["Previous", "name_of_folder"]

_NAME_IT = "--name of `data commit`, --dataset-name of `dryrun` and `open-run`"


@dataclass(frozen=True, kw_only=True)
class Previous:
    """Newest commit of a dataset, for comparison with a new one."""

    commit: Commit
    content: ContentReader
    """Its samples and files."""

    def require_related(self, folder: object, samples: Sequence[Sample], media: Collection[str]) -> None:
        """Refuse a folder whose name equals that of an unrelated dataset.

        Args:
            folder: Folder to commit.
            samples: Its samples.
            media: Content digests of its media.

        Raises:
            DatasetError: Folder and commit have no media file and no sample in common.
            CommitError: A list of the commit is lost or damaged.
        """
        digests = set(media)
        if any(row.sha256 in digests for row in self.content.files):
            return
        lines = {sample.to_json_line().encode() for sample in samples}
        if any(line.text in lines for _, line in self._lines()):
            return
        name = self.commit.name
        raise DatasetError(
            f"dataset {name} exists and has no media file and no sample in common with {folder}: give "
            f"another name, or {name} to replace it ({_NAME_IT})"
        )

    def moved(self, splits: Mapping[str, Sequence[Sample]]) -> Counter[str]:
        """Count the samples that changed their split, by their new split; errors as for `require_related`."""
        now = {sample.id: split for split, samples in splits.items() for sample in samples}
        return Counter(now[line.id] for before, line in self._lines() if now.get(line.id, before) != before)

    def _lines(self) -> Iterator[tuple[str, SampleLine]]:
        for split in self.content.splits:
            for line in self.content.samples(split):
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
