"""Opening and inspecting media files, with one clear reason if a file cannot be read."""

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

import av
from av.container import InputContainer

from llava_av.media.image_formats import image_format
from llava_av.media.image_frames import describe_image
from llava_av.media.info import MediaError, MediaInfo, UnreadableError
from llava_av.media.tracks import audio_stream, packets_end, stated_end, time_zero, video_stream
from llava_av.media.unsupported_formats import describe_unsupported, has_unknown_length

__all__ = [
    "MAX_RATE_HZ",
    "MediaError",
    "MediaInfo",
    "audio_end_s",
    "describe",
    "open_media",
    "probe",
]

# Only formats that contain the media themselves: playlists, concatenations and text renderers would let a
# file reference other files and addresses, or turn any text into "video". `image_decoding` reads images.
_FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,asf,ogg,wav,w64,mp3,flac,aac,aiff,au,caf,amr,"
    "m4v,h264,hevc,mpegvideo"
)
_OPTIONS = {"format_whitelist": _FORMATS}
MAX_RATE_HZ = 768_000
# 8192 x 8192, twice the pixels of 8K video.
_MAX_FRAME_PIXELS = 1 << 26
# Raw audio, whose header may state a length that was unknown when it was written.
_RAW_AUDIO = ("wav", "w64", "aiff", "au", "caf")
_EXACT_VIDEO = ("mov",)
_EXACT_AUDIO = ("mov", "flac", *_RAW_AUDIO)
_ROUNDING_S = Fraction(15, 10_000)
_MP4_BOXES = (b"ftyp", b"mdat", b"moov", b"wide", b"free", b"skip")


class _Content:
    """A file without its name, because FFmpeg would choose the format by the name instead of the content."""

    def __init__(self, file: BinaryIO) -> None:
        self.read, self.tell, self._seek = file.read, file.tell, file.seek

    def seek(self, offset: int, whence: int = 0) -> int:
        """Seek to an offset; return -1 if a damaged header requests an impossible one."""
        try:
            return self._seek(offset, whence)
        except (OSError, ValueError, OverflowError):
            return -1


@contextmanager
def open_media(path: Path | str) -> Iterator[InputContainer]:
    """Open a media file for demuxing; errors while opening and inside the block become `MediaError`.

    Only the content decides the format, never the name, and a file cannot reference other files or addresses.

    Raises:
        MediaError: The file is missing, empty, unreadable, damaged, or not a media file.
    """
    path = Path(path)
    try:
        if (image := image_format(path)) is not None:
            raise MediaError(path, f"is a {image} image, which has no video or audio track")
        options = _OPTIONS | ({"ignore_length": "1"} if has_unknown_length(path) else {})
        with (
            path.open("rb") as file,
            av.open(_Content(file), container_options=options, metadata_errors="replace") as container,
        ):
            container = cast(InputContainer, container)
            _require_bounds(path, video_stream(container), audio_stream(container))
            yield container
    except av.FFmpegError as error:
        raise MediaError(path, _failure_reason(path, error.strerror or "unknown error")) from None
    except OSError as error:
        raise UnreadableError(path, f"cannot be read: {error.strerror or error}") from None


def probe(path: Path | str) -> MediaInfo:
    """Inspect a file by its headers and, if these state no length, by its packets.

    Raises:
        MediaError: The file cannot be opened or contains neither video nor audio.
    """
    if image_format(path) is not None:
        return describe_image(path)
    with open_media(path) as container:
        return describe(container, Path(path))


def describe(container: InputContainer, path: Path) -> MediaInfo:
    """Inspect an open container; `path` is used in messages."""
    video, audio = video_stream(container), audio_stream(container)
    if video is None and audio is None:
        raise MediaError(path, _failure_reason(path, "it contains neither video nor audio"))
    kind: Literal["video", "audio"] = "audio" if video is None else "video"
    rate = (video.average_rate or video.guessed_rate) if video is not None else None
    return MediaInfo(
        kind=kind,
        duration_s=_duration_s(container, video or audio, path),
        frames=(video.frames or None) if video is not None else None,
        fps=float(rate) if rate else None,
        width=video.codec_context.width if video is not None else 0,
        height=video.codec_context.height if video is not None else 0,
        has_audio=audio is not None,
        sample_rate_hz=audio.codec_context.sample_rate if audio is not None else None,
        audio_end_s=audio_end_s(container, audio) if audio is not None else None,
    )


def audio_end_s(container: InputContainer, audio: Any) -> float | None:
    """Return the end of an audio track that the headers state, in seconds from the file's start, or None."""
    end = stated_end(audio)
    return None if end is None else float(end - time_zero(container))


def _require_bounds(path: Path, video: Any | None, audio: Any | None) -> None:
    """Refuse an implausible frame size or sample rate before memory of that size is allocated."""
    if video is not None and video.codec_context.width * video.codec_context.height > _MAX_FRAME_PIXELS:
        size = f"{video.codec_context.width} x {video.codec_context.height}"
        raise MediaError(
            path, f"has frames of {size} pixels, more than {_MAX_FRAME_PIXELS:,}; scale the video down"
        )
    if audio is not None and audio.codec_context.sample_rate > MAX_RATE_HZ:
        rate = audio.codec_context.sample_rate
        detail = f"its header states {rate:,} audio samples per second, more than {MAX_RATE_HZ:,}"
        raise MediaError(path, f"is damaged or not an audio file: {detail}; export it again")


def _failure_reason(path: Path, detail: str) -> str:
    with path.open("rb") as file:
        head = file.read(64)
    unsupported = describe_unsupported(head, path.stat().st_size)
    if unsupported is not None:
        return unsupported
    if head[4:8] in _MP4_BOXES:
        return (
            "is an MP4 whose index or data is missing or damaged: a truncated copy (copy it again) or an "
            "interrupted recording (record or export it again)"
        )
    return f"is not a readable media file, or is damaged ({detail[0].lower()}{detail[1:]})"


def _duration_s(container: InputContainer, stream: Any, path: Path) -> float:
    zero = time_zero(container)
    end = _stated_end(container, stream, path)
    if end is None:
        end = _measured_end(container, stream, path)
    duration_s = max(Fraction(0), (end or zero) - zero)
    rate = (stream.average_rate or stream.guessed_rate) if stream.type == "video" else None
    return float(_on_grid(duration_s, Fraction(rate)) if rate else duration_s)


def _stated_end(container: InputContainer, stream: Any, path: Path) -> Fraction | None:
    """Return the end of a track that the headers state exactly, in seconds, or None."""
    formats = _EXACT_AUDIO if stream.type == "audio" else _EXACT_VIDEO
    if not stream.duration or not container.format.name.startswith(formats):
        return None
    if container.format.name in _RAW_AUDIO:
        length_s = stream.duration * stream.time_base
        stated_bytes = length_s * (stream.codec_context.bit_rate or 0) / 8
        if stated_bytes > path.stat().st_size:
            return None
    return stated_end(stream)


def _measured_end(container: InputContainer, stream: Any, path: Path) -> Fraction | None:
    """Return the end of a track by its packets; read from a second handle, as some formats cannot rewind."""
    # Matroska states only the end of its longest track, but has an index of the keyframes.
    indexed = container.format.name.startswith("matroska") and bool(container.duration)
    for from_last_keyframe in (True, False) if indexed else (False,):
        with open_media(path) as again:
            track = video_stream(again) if stream.type == "video" else audio_stream(again)
            # A damaged stream may announce other tracks when it is read again.
            end = track and packets_end(again, track, from_last_keyframe=from_last_keyframe)
        if end is not None:
            return end
    return None


def _on_grid(duration_s: Fraction, rate: Fraction) -> Fraction:
    """Round a length to whole frame intervals if times in milliseconds explain the difference."""
    whole = round(duration_s * rate) / rate
    return whole if abs(whole - duration_s) <= _ROUNDING_S else duration_s
