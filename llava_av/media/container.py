"""Opening media files: what they hold, and one clear reason when they cannot be read."""

import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, cast

import av
from av.container import InputContainer
from av.stream import Disposition

from llava_av.errors import UserError

__all__ = [
    "MediaError",
    "MediaInfo",
    "audio_stream",
    "describe",
    "open_media",
    "probe",
    "time_zero",
    "video_stream",
]

# Only formats that hold samples themselves: playlists, concatenations and text renderers would let a
# file name other files and addresses, or turn any text into "video".
_FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,asf,ogg,wav,w64,mp3,flac,aac,aiff,au,caf,amr,"
    "m4v,h264,hevc,mpegvideo,gif,apng,png_pipe,jpeg_pipe,webp_pipe,bmp_pipe,tiff_pipe,ppm_pipe,pgm_pipe"
)
_OPTIONS = {"format_whitelist": _FORMATS}
_MP4_BOXES = (b"ftyp", b"mdat", b"moov", b"wide", b"free", b"skip")


class MediaError(UserError):
    """A media file that cannot be used: `path` names it, `reason` says why, both in the one-line text."""

    def __init__(self, path: Path | str, reason: str) -> None:
        super().__init__(str(path), reason)
        self.path = Path(path)
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


@dataclass(frozen=True, kw_only=True)
class MediaInfo:
    """What a media file holds."""

    kind: Literal["video", "audio", "image"]
    """`video` has moving pictures (with or without sound), `audio` only sound, `image` one picture."""
    duration_s: float
    """Length in seconds: of the picture track of a video, of the sound of an audio file; 0 of an image."""
    frames: int | None
    """Pictures; None where the container does not count them."""
    fps: float | None
    """Average pictures per second; None without moving pictures or when unknown."""
    width: int
    """Width as stored, in pixels; 0 without pictures."""
    height: int
    """Height as stored, in pixels; 0 without pictures."""
    has_audio: bool
    """Whether there is a sound track; a silent track counts as one."""
    sample_rate_hz: int | None
    """Native rate of the sound track, in samples per second; None without one."""


@contextmanager
def open_media(path: Path | str) -> Iterator[InputContainer]:
    """Opens a media file for demuxing; errors of opening and of the block become `MediaError`.

    The content alone decides the format, never the name, and a file can name no other file or address.

    Raises:
        MediaError: missing, not a regular file, empty, unreadable, no media, or damaged.
    """
    path = Path(path)
    try:
        _require_bytes(path)
        with (
            path.open("rb") as file,
            av.open(file, container_options=dict(_OPTIONS), metadata_errors="replace") as container,
        ):
            yield cast(InputContainer, container)
    except av.FFmpegError as error:
        raise MediaError(path, _why(path, error.strerror or "unknown error")) from None
    except OSError as error:
        raise MediaError(path, f"cannot be read: {error.strerror or error}") from None


def probe(path: Path | str) -> MediaInfo:
    """Reads what a file holds from its headers (and, where those give no length, from its packets).

    Raises:
        MediaError: the file cannot be opened or holds neither pictures nor sound.
    """
    with open_media(path) as container:
        return describe(container, Path(path))


def describe(container: InputContainer, path: Path) -> MediaInfo:
    """`probe` for a container that is open; `path` names it."""
    video, audio = video_stream(container), audio_stream(container)
    if video is None and audio is None:
        raise MediaError(path, _why(path, "it holds neither pictures nor sound"))
    kind: Literal["video", "audio", "image"] = "audio" if video is None else "video"
    if video is not None and audio is None and _is_still(container, video, path):
        kind = "image"
    rate = (video.average_rate or video.guessed_rate) if video is not None else None
    return MediaInfo(
        kind=kind,
        duration_s=0.0 if kind == "image" else _duration_s(container, video or audio, path),
        frames=1 if kind == "image" else (video.frames or None) if video is not None else None,
        fps=float(rate) if rate and kind == "video" else None,
        width=video.codec_context.width if video is not None else 0,
        height=video.codec_context.height if video is not None else 0,
        has_audio=audio is not None,
        sample_rate_hz=audio.codec_context.sample_rate if audio is not None else None,
    )


def video_stream(container: InputContainer) -> Any | None:
    """The first picture track that a decoder exists for (cover art is none), set to one thread, or None."""
    for stream in cast(list[Any], container.streams.video):
        if stream.codec_context is not None and not stream.disposition & Disposition.attached_pic:
            # Frame threads cost more to start than a short clip takes, and loaders run in many processes.
            stream.codec_context.thread_count = 1
            return stream
    return None


def audio_stream(container: InputContainer) -> Any | None:
    """The first sound track that a decoder exists for, or None."""
    for stream in cast(list[Any], container.streams.audio):
        if stream.codec_context is not None and stream.codec_context.sample_rate > 0:
            stream.codec_context.thread_count = 1
            return stream
    return None


def time_zero(container: InputContainer) -> Fraction:
    """The presentation time, in seconds, at which the file's first picture or sound starts.

    All times of this package count from here, so picture and sound share one clock.
    """
    tracks = [stream for stream in (video_stream(container), audio_stream(container)) if stream is not None]
    starts = [stream.start_time * stream.time_base for stream in tracks if stream.start_time is not None]
    return min(starts, default=Fraction(0))


def _require_bytes(path: Path) -> None:
    try:
        status = path.stat()
    except FileNotFoundError:
        raise MediaError(path, "there is no such file") from None
    if not stat.S_ISREG(status.st_mode):
        raise MediaError(path, "is a folder or special file, not a media file")
    if status.st_size == 0:
        raise MediaError(path, "is empty (0 bytes)")


def _why(path: Path, detail: str) -> str:
    with path.open("rb") as file:
        head = file.read(8)
    if head[4:8] in _MP4_BOXES:
        return (
            "is an MP4 whose index or data is missing or damaged, most likely a truncated copy; copy it again"
        )
    return f"is no media file that can be read, or is damaged ({detail[0].lower()}{detail[1:]})"


def _is_still(container: InputContainer, video: Any, path: Path) -> bool:
    name = container.format.name
    return name.endswith("_pipe") or (name in ("gif", "apng") and _measure(path)[1] == 1)


def _duration_s(container: InputContainer, stream: Any, path: Path) -> float:
    zero = time_zero(container)
    if stream.duration:
        return float(((stream.start_time or 0) + stream.duration) * stream.time_base - zero)
    if container.duration:
        return container.duration / av.time_base
    end, packets = _measure(path)
    rate = getattr(stream, "guessed_rate", None)
    return float(end - zero) or (packets / float(rate) if rate else 0.0)


def _measure(path: Path) -> tuple[Fraction, int]:
    """End of the last packet, in seconds, and number of packets, of the first picture track or the sound.

    Streams cut from a live source name no length in their headers. Reads from a second handle: some
    formats cannot be wound back.
    """
    end, packets = Fraction(0), 0
    with open_media(path) as container:
        stream = video_stream(container) or audio_stream(container)
        for packet in container.demux(stream):
            packets += bool(packet.size)
            if packet.pts is not None:
                end = max(end, (packet.pts + (packet.duration or 0)) * packet.time_base)
    return end, packets
