"""Properties of a media file, and the error for files that cannot be used."""

import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from llava_av.errors import UserError, printable

CHECK_VERSION = 2
"""Number that is raised when `media.check` finds more or describes files differently."""


class MediaError(UserError):
    """A media file that cannot be used. Its one-line text contains `path` and `reason`."""

    def __init__(self, path: Path | str, reason: str) -> None:
        super().__init__(str(path), reason)
        self.path = Path(path)
        self.reason = reason

    def __str__(self) -> str:
        return f"{printable(str(self.path))}: {printable(self.reason)}"


class UnreadableError(MediaError):
    """A path without content, or a file that this machine cannot read, for example for lack of memory."""


@dataclass(frozen=True, kw_only=True)
class MediaInfo:
    """Contents of a media file."""

    kind: Literal["video", "audio", "image"]
    """`video` has frames (with or without audio), `audio` has only audio, `image` is one image."""
    duration_s: float
    """Length in seconds: of the video track of a video, of the audio of an audio file; 0 for an image."""
    frames: int | None
    """Number of frames; None if the container does not state it."""
    fps: float | None
    """Average frames per second; None without video or if unknown."""
    width: int
    """Width in pixels: of images and animations upright, of videos as stored; 0 for audio."""
    height: int
    """Height in pixels, as `width`."""
    has_audio: bool
    """True if there is an audio track, even a silent one."""
    sample_rate_hz: int | None
    """Native rate of the audio track, in samples per second; None without one."""
    audio_end_s: float | None = None
    """End of the audio track that the headers state, in seconds from the file's start; None if unknown."""
    is_animation: bool = False
    """True for an image format with several frames: a video whose first frame can serve as an image."""

    def serves_as(self, modality: str) -> bool:
        """Check whether the file can be used as an `image`, a `video` or an `audio`."""
        if modality == "audio":
            return self.has_audio
        return self.kind == modality or (self.is_animation and modality == "image")

    @property
    def description(self) -> str:
        """Return a noun phrase for messages, such as `a still image`."""
        return {"audio": "audio without video", "image": "a still image", "video": "a video"}[self.kind]


def require_bytes(path: Path) -> None:
    """Require that a path is a regular file with content.

    Raises:
        UnreadableError: The path is missing, a folder, a special file or an empty file.
    """
    try:
        status = path.stat()
    except FileNotFoundError:
        raise UnreadableError(path, "no such file") from None
    if not stat.S_ISREG(status.st_mode):
        raise UnreadableError(path, "is a folder or special file, not a media file")
    if status.st_size == 0:
        raise UnreadableError(path, "is empty (0 bytes)")
