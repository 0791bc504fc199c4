"""Whether a media file is whole: readable by its headers, and as long as its headers promise."""

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


def check_media(path: Path | str) -> MediaInfo:
    """Reads a file once from end to end and decodes its first frames.

    Found are: truncation (data that the index points at is not in the file, damaged packets, or packets
    that end well before the stated length) and tracks whose start does not decode. Damage inside a packet
    in the middle shows only when it is decoded.

    Raises:
        MediaError: the file is not whole, with the reason.
    """
    path = Path(path)
    with open_media(path) as container:
        info = describe(container, path)
        tracks = [track for track in (video_stream(container), audio_stream(container)) if track is not None]
        _check_index(path, tracks)
        covered_s = _check_packets(container, path, tracks)
        if container.format.name in _EXACT_LENGTH and container.duration:
            _check_length(path, covered_s, container.duration / av.time_base, info.fps)
    _check_decodes(path, info)
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


def _check_packets(container: InputContainer, path: Path, tracks: Iterable[Any]) -> float:
    """Seconds from the file's start to the end of its last packet."""
    zero = end = time_zero(container)
    for packet in container.demux(*tracks):
        if packet.is_corrupt:
            raise MediaError(path, f"is truncated or damaged after {float(end - zero):.2f} s; copy it again")
        if packet.pts is not None:
            end = max(end, Fraction(packet.pts + (packet.duration or 0)) * packet.time_base)
    return float(end - zero)


def _check_length(path: Path, covered_s: float, stated_s: float, fps: float | None) -> None:
    # The last packet of some containers has no length of its own.
    slack_s = _SLACK_S + (1.5 / fps if fps else 0.0)
    if covered_s < stated_s - slack_s:
        detail = f"its header states {stated_s:.2f} s, the file has {covered_s:.2f} s"
        raise MediaError(path, f"is truncated: {detail}; copy it again")


def _check_decodes(path: Path, info: MediaInfo) -> None:
    with open_media(path) as container:
        video = video_stream(container)
        if video is not None and next(container.decode(video), None) is None:
            raise MediaError(path, "has a picture track, but no frame of it decodes")
    if info.has_audio:
        with open_media(path) as container:
            if next(container.decode(audio_stream(container)), None) is None:
                raise MediaError(path, "has a sound track, but nothing of it decodes")
