"""Sources of the media of samples: a folder, or files that are fetched when they are needed."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

from llava_av.datasets.schema import Sample
from llava_av.media.info import MediaInfo

__all__ = ["FolderMedia", "MediaSource"]


class MediaSource(Protocol):
    """Source of media files by the names that samples give them."""

    def files(self, sample: Sample) -> AbstractContextManager[Mapping[str, Path]]:
        """Provide the path of each media file of a sample for a block; getting a path may fetch the file.

        Getting a path raises MediaError if the file is lost or damaged.
        """
        ...

    def info(self, name: str) -> MediaInfo | None:
        """Return the recorded properties of a file; None if only its headers state them."""
        ...


class FolderMedia:
    """Media files in a folder.

    Args:
        root: Folder that media paths are relative to.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    @contextmanager
    def files(self, sample: Sample) -> Iterator[Mapping[str, Path]]:
        """Provide the path of each media file of a sample."""
        yield {name: self._root / name for name in sample.media}

    def info(self, name: str) -> MediaInfo | None:
        """Return None: headers are at hand."""
        return None
