"""Content of the page of a dataset."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from llava_av.datasets.excerpt import Excerpt
from llava_av.datasets.manifest import LeftOut
from llava_av.datasets.ranges import FileRow
from llava_av.processes.progress import ProgressCallback

__all__ = ["ViewInputs"]


@dataclass(frozen=True, kw_only=True)
class ViewInputs:
    """Everything that the page shows."""

    title: str
    """Name of the commit or folder."""
    origin: str
    """Author and time of the commit; the kind of source for a folder."""
    message: str = ""
    """Message of the commit."""
    splits: Mapping[str, int]
    """Samples of each split of the whole dataset."""
    kinds: Mapping[str, int]
    """Samples of each kind of the whole dataset."""
    files: int
    """Media files of the whole dataset."""
    bytes: int
    """Size of these files."""
    excerpt: Excerpt
    """Samples of the page."""
    selection: str = ""
    """Conditions that these samples meet, for a sentence; empty if there are none."""
    left_out: Sequence[LeftOut]
    """Lines and files that were left out of the dataset."""
    max_bytes: int
    """Maximum base64 characters of embedded media and of previews together."""
    open_file: Callable[[FileRow], AbstractContextManager[Path]]
    """Function that provides a media file for a block; raises UserError if this fails."""
    progress: ProgressCallback = field(default=lambda done, total: None)
    """Called with the number of media files that were read, and of files to read."""
