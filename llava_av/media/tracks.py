"""Tracks of an open container: which tracks are used, their clock, their end and their frames.

All times of this package count from `time_zero`. Containers differ in three ways, but equal content must
give equal samples in all of them:

- An encoder adds padding before the audio. MP4, Matroska and Ogg can state its length, and FFmpeg removes it.
  In other files the video starts a few milliseconds after the audio; there `time_zero` is the video's start.
- AVI and ASF store no presentation times. FFmpeg derives them from the decoding order, so they are late by
  the depth of the reordering; `lateness` returns that delay.
- The last packet often has no duration. It then lasts one frame interval.
"""

from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import islice
from typing import Any, cast

import av
from av.container import InputContainer
from av.stream import Disposition

__all__ = [
    "DECODING_TIMES",
    "audio_stream",
    "decoded",
    "frames_of_packet",
    "lateness",
    "packets_end",
    "self_synchronizing",
    "stated_end",
    "time_zero",
    "video_stream",
]

# Containers that store no presentation times.
DECODING_TIMES = ("avi", "asf")
# An AAC encoder puts up to 2,112 samples first, WMA up to 4,096.
_PRIMING_SAMPLES = 4096
_MOST_PRIMING_S = Fraction(15, 100)
_NEVER_PRIMED = ("pcm_", "adpcm_", "flac", "alac", "opus", "vorbis")
# Players skip invalid bytes and search for the next frame. Raw audio may end within a sample.
_SELF_SYNCHRONIZING = ("mp3", "aac", "amr", "mpegts", "mpeg", "wav", "w64", "aiff", "au", "caf")
_MOST_REORDERED = 32


def video_stream(container: InputContainer) -> Any | None:
    """Return the first video track that has a decoder, set to one thread, or None; skip cover art."""
    for stream in cast(list[Any], container.streams.video):
        if stream.codec_context is not None and not stream.disposition & Disposition.attached_pic:
            return _single_threaded(stream)
    return None


def audio_stream(container: InputContainer) -> Any | None:
    """Return the first audio track that has a decoder, or None."""
    for stream in cast(list[Any], container.streams.audio):
        if stream.codec_context is not None and stream.codec_context.sample_rate > 0:
            return _single_threaded(stream)
    return None


def _single_threaded(stream: Any) -> Any:
    # Frame threads take longer to start than a short clip to decode, and loaders use many processes.
    if not stream.codec_context.is_open:
        stream.codec_context.thread_count = 1
    return stream


def time_zero(container: InputContainer) -> Fraction:
    """Return the presentation time, in seconds, of the file's first video frame or audio sample."""
    video, audio = video_stream(container), audio_stream(container)
    starts = {
        stream.type: stream.start_time * stream.time_base
        for stream in (video, audio)
        if stream is not None and stream.start_time is not None
    }
    if len(starts) == 2 and 0 < starts["video"] - starts["audio"] <= _priming_s(audio):
        return Fraction(starts["video"])
    return Fraction(min(starts.values(), default=0))


def _priming_s(audio: Any) -> Fraction:
    if audio.codec_context.name.startswith(_NEVER_PRIMED):
        return Fraction(0)
    return min(Fraction(_PRIMING_SAMPLES, audio.codec_context.sample_rate), _MOST_PRIMING_S)


def lateness(container: InputContainer, video: Any) -> Fraction:
    """Read from the container's start and return by how many seconds FFmpeg's times of a track are late."""
    if container.format.name not in DECODING_TIMES:
        return Fraction(0)
    times = ((packet.pts, packet.dts) for packet in container.demux(video) if packet.pts is not None)
    return _delay(list(islice(times, _MOST_REORDERED))) * Fraction(video.time_base)


def _delay(times: list[tuple[int, int | None]]) -> int:
    """Return the ticks from the first decoding time to the first presentation time."""
    decoding = [dts for _, dts in times if dts is not None]
    return min(pts for pts, _ in times) - min(decoding) if decoding else 0


def stated_end(stream: Any) -> Fraction | None:
    """Return the end of a track that its header states, in seconds; None if it states no duration."""
    if not stream.duration:
        return None
    return Fraction(((stream.start_time or 0) + stream.duration) * stream.time_base)


def packets_end(
    container: InputContainer, stream: Any, *, from_last_keyframe: bool = False
) -> Fraction | None:
    """Read packets and return when a track's last packet ends, in seconds.

    Args:
        container: Open container; the call consumes it.
        stream: One of its tracks.
        from_last_keyframe: Read only the last part, which requires an index.

    Returns:
        The end, or None if the part that was read has no packet of the track.
    """
    if from_last_keyframe:
        try:
            container.seek(container.duration or 0)
        except av.FFmpegError:
            return None
    times: list[tuple[int, int | None]] = []
    end_s, untimed = Fraction(0), 0
    for packet in container.demux(stream):
        untimed += bool(packet.size) and packet.pts is None
        if packet.pts is not None:
            times.append((packet.pts, packet.dts))
            end_s = max(end_s, Fraction(packet.pts * packet.time_base) + _length_s(packet))
    if not times:
        return untimed * _interval_s(stream) or None
    late = container.format.name in DECODING_TIMES
    return end_s - (_delay(times) * Fraction(stream.time_base) if late else 0)


def _length_s(packet: Any) -> Fraction:
    """Return how long a packet plays, without the padding at an audio track's end."""
    if not packet.duration:
        return _interval_s(packet.stream)
    length_s = Fraction(packet.duration * packet.time_base)
    padding_s = Fraction(0)
    if packet.stream.type == "audio" and packet.has_sidedata("skip_samples"):
        samples = int.from_bytes(bytes(packet.get_sidedata("skip_samples"))[4:8], "little")
        padding_s = Fraction(samples, packet.stream.codec_context.sample_rate)
    # Some demuxers shorten the packet themselves.
    return length_s - padding_s if padding_s < length_s else length_s


def decoded(container: InputContainer, stream: Any) -> Iterator[Any]:
    """Yield a track's frames from the container's position; skip bad packets in formats where players do."""
    for packet in container.demux(stream):
        yield from frames_of_packet(container, packet)


def frames_of_packet(container: InputContainer, packet: Any) -> Sequence[Any]:
    """Decode a packet; a bad packet has no frames in formats where players skip it."""
    try:
        frames: Sequence[Any] = packet.decode()
    except av.error.InvalidDataError:
        if not self_synchronizing(container):
            raise
        return ()
    return frames


def self_synchronizing(container: InputContainer) -> bool:
    """Check whether players resume after invalid bytes, such as a tag between two joined files."""
    return container.format.name in _SELF_SYNCHRONIZING


def _interval_s(stream: Any) -> Fraction:
    rate = (stream.average_rate or stream.guessed_rate) if stream.type == "video" else None
    return 1 / Fraction(rate) if rate else Fraction(0)
