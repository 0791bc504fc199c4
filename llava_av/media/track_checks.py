"""Integrity checks of a video or audio file: all of its tracks decode, or its headers fit its size."""

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.container import InputContainer

from llava_av.media.container import MediaError, MediaInfo, describe, open_media
from llava_av.media.stated_size import stated_bytes
from llava_av.media.tracks import audio_stream, self_synchronizing, time_zero, video_stream

__all__ = ["check_track_headers", "check_tracks"]

# Formats whose headers state the exact length.
_EXACT_LENGTH = ("flac", "avi", "aiff", "au")
# Writers that confuse the size of the data with the size of the file are off by a header.
_SLACK_BYTES = 64
_SLACK_S = 0.1
_AGAIN = "copy it again or export it again"
# Packets of a track that may be invalid in formats that players resume: joints, tags, a cut at the end.
_BAD_PACKETS = 4
_BAD_SHARE = 0.05


@dataclass
class _Track:
    """Counts of a track that is being read."""

    stream: Any
    frames: int = 0
    packets: int = 0
    bad: int = 0


def check_tracks(path: Path) -> MediaInfo:
    """Decode the tracks of a file, packet by packet; see `check.check_media`."""
    with open_media(path) as container:
        info = describe(container, path)
        streams = _streams(container)
        _check_size(path, streams)
        tracks = {stream.index: _Track(stream) for stream in streams}
        end_s = _check_content(container, path, tracks)
        if container.format.name in _EXACT_LENGTH and container.duration:
            _check_length(path, float(end_s), container.duration / av.time_base, info.fps)
    return info


def check_track_headers(path: Path) -> MediaInfo:
    """Compare the headers of a file with its size; see `check.check_headers`."""
    with open_media(path) as container:
        info = describe(container, path)
        _check_size(path, _streams(container))
    return info


def _streams(container: InputContainer) -> list[Any]:
    """Return the tracks that are used."""
    return [stream for stream in (video_stream(container), audio_stream(container)) if stream is not None]


def _check_size(path: Path, streams: Iterable[Any]) -> None:
    """Refuse a file that is shorter than stated: an MP4 with its index first opens without its data."""
    size = path.stat().st_size
    promised = [entry.pos + entry.size for stream in streams for entry in stream.index_entries]
    if promised and max(promised) > size:
        detail = f"its index points up to byte {max(promised)}, the file has {size}"
        raise MediaError(path, f"is truncated: {detail}; copy it again")
    stated = stated_bytes(path)
    if stated is not None and stated > size + _SLACK_BYTES:
        raise MediaError(
            path, f"is truncated: its header states {stated} bytes, the file has {size}; copy it again"
        )


def _check_content(container: InputContainer, path: Path, tracks: dict[int, _Track]) -> Fraction:
    """Decode every packet of the tracks; return the end of the last packet of any track, in seconds."""
    zero = end = time_zero(container)
    for packet in container.demux():
        if packet.stream.index in tracks:
            _decode(packet, path, tracks[packet.stream.index], container, float(end - zero))
        if packet.pts is not None:
            end = max(end, Fraction(packet.pts + (packet.duration or 0)) * packet.time_base)
    for track in tracks.values():
        what = track.stream.type
        if not track.frames:
            raise MediaError(path, f"has a {what} track that does not decode at all; export it again")
        if track.bad > _BAD_PACKETS + _BAD_SHARE * track.packets:
            detail = f"{track.bad} of {track.packets} packets of its {what} do not decode"
            raise MediaError(path, f"is damaged: {detail}; {_AGAIN}")
    return end


def _decode(packet: Any, path: Path, track: _Track, container: InputContainer, at_s: float) -> None:
    resumes = self_synchronizing(container)
    if packet.is_corrupt and not resumes:
        raise MediaError(path, f"is truncated or damaged after {at_s:.2f} s; {_AGAIN}")
    what = track.stream.type
    track.packets += 1
    try:
        frames = packet.decode()
    except av.FFmpegError as error:
        if resumes and isinstance(error, av.error.InvalidDataError):
            track.bad += 1
            return
        detail = (error.strerror or "unknown error").lower()
        reason = f"is damaged: its {what} does not decode after {at_s:.2f} s ({detail}); {_AGAIN}"
        raise MediaError(path, reason) from None
    for frame in frames:
        # Decoders conceal missing parts; this flag is the only sign of it.
        if frame.is_corrupt and not (resumes and track.stream.type == "audio"):
            raise MediaError(
                path,
                f"is damaged: part of its {what} is missing near {at_s:.2f} s; {_AGAIN}",
            )
    track.frames += len(frames)


def _check_length(path: Path, covered_s: float, stated_s: float, fps: float | None) -> None:
    # The last packet of some containers has no duration.
    slack_s = _SLACK_S + (1.5 / fps if fps else 0.0)
    if covered_s < stated_s - slack_s:
        detail = f"its header states {stated_s:.2f} s, the file has {covered_s:.2f} s"
        raise MediaError(path, f"is truncated: {detail}; copy it again")
