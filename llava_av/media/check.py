"""Whether a media file is whole: all of it decodes, and it is as long as its headers promise."""

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.container import InputContainer

from llava_av.media.container import (
    MediaError,
    MediaInfo,
    audio_stream,
    describe,
    open_media,
    time_zero,
    video_stream,
)

__all__ = ["check_media"]

# Their headers state the length exactly; MP3 and transport streams only estimate it.
_EXACT_LENGTH = ("matroska,webm", "wav", "w64", "flac", "aiff", "avi")
_SLACK_S = 0.1
_WHAT = {"video": "picture", "audio": "sound"}


def check_media(path: Path | str) -> MediaInfo:
    """Reads and decodes a file once from end to end, a packet at a time.

    Found are: truncation (data that the index points at is not in the file, damaged packets, or packets
    that end well before the stated length), and pictures or sound that do not decode, wherever they are.
    Damage that a decoder cannot tell from content (other bytes in a compressed picture may be a picture
    too) is not found.

    Raises:
        MediaError: the file is not whole, with the reason.
    """
    path = Path(path)
    with open_media(path) as container:
        info = describe(container, path)
        tracks = [track for track in (video_stream(container), audio_stream(container)) if track is not None]
        _check_index(path, tracks)
        covered_s = _check_content(container, path, tracks, info.sample_rate_hz)
        if container.format.name in _EXACT_LENGTH and container.duration:
            _check_length(path, covered_s, container.duration / av.time_base, info.fps)
    return info


def _check_index(path: Path, tracks: Iterable[Any]) -> None:
    """An MP4 whose index stands in front opens even when most of its data is missing."""
    size = path.stat().st_size
    for track in tracks:
        if len(track.index_entries):
            promised = max(entry.pos + entry.size for entry in track.index_entries)
            if promised > size:
                detail = f"its index points up to byte {promised}, the file has {size}"
                raise MediaError(path, f"is truncated: {detail}; copy it again")


def _check_content(
    container: InputContainer, path: Path, tracks: Iterable[Any], sample_rate_hz: int | None
) -> float:
    """Decodes every packet; seconds from the file's start to the end of the last one."""
    zero = end = time_zero(container)
    decoded = {track.index: 0 for track in tracks}
    for packet in container.demux(*tracks):
        if packet.is_corrupt:
            raise MediaError(path, f"is truncated or damaged after {float(end - zero):.2f} s; copy it again")
        decoded[packet.stream.index] += _decode(packet, path, float(end - zero), sample_rate_hz)
        if packet.pts is not None:
            end = max(end, Fraction(packet.pts + (packet.duration or 0)) * packet.time_base)
    for track in tracks:
        if not decoded[track.index]:
            raise MediaError(path, f"has a {_WHAT[track.type]} track, but nothing of it decodes")
    return float(end - zero)


def _decode(packet: Any, path: Path, at_s: float, sample_rate_hz: int | None) -> int:
    """Number of whole frames that come out of the decoder for a packet."""
    what = _WHAT[packet.stream.type]
    try:
        frames = packet.decode()
    except av.FFmpegError as error:
        detail = (error.strerror or "unknown error").lower()
        reason = f"is damaged: its {what} does not decode after {at_s:.2f} s ({detail}); copy it again"
        raise MediaError(path, reason) from None
    for frame in frames:
        # Decoders paint over what is missing, and say so here alone.
        if frame.is_corrupt:
            raise MediaError(
                path, f"is damaged: a part of its {what} is missing near {at_s:.2f} s; copy it again"
            )
        if packet.stream.type == "audio" and frame.sample_rate != sample_rate_hz:
            raise MediaError(path, f"has sound whose rate changes at {at_s:.2f} s; convert it to one rate")
    return len(frames)


def _check_length(path: Path, covered_s: float, stated_s: float, fps: float | None) -> None:
    # The last packet of some containers has no length of its own.
    slack_s = _SLACK_S + (1.5 / fps if fps else 0.0)
    if covered_s < stated_s - slack_s:
        detail = f"its header states {stated_s:.2f} s, the file has {covered_s:.2f} s"
        raise MediaError(path, f"is truncated: {detail}; copy it again")
