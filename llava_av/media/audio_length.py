"""Length of a file's decoded audio, predicted from its headers."""

from pathlib import Path

from llava_av.media.container import MediaError, audio_end_s, open_media
from llava_av.media.decode import read_audio
from llava_av.media.tracks import audio_stream

__all__ = ["audio_length", "stated_length"]

# Shorter audio is decoded, which costs little: headers are too coarse for a few milliseconds.
_SHORT_S = 1.0
# Encoders add up to 0.1 s of padding.
_SLACK_S = 0.1


def audio_length(path: Path | str, *, sample_rate_hz: int, max_s: float) -> int:
    """Return the number of samples that `read_audio` returns: exact below one second, else an upper bound.

    Args:
        path: File with an audio track.
        sample_rate_hz: Samples per second.
        max_s: Seconds to keep from the start.

    Raises:
        MediaError: There is no audio track, or a short one does not decode.
    """
    stated_s = _stated_s(Path(path))
    length = stated_length(stated_s, sample_rate_hz=sample_rate_hz, max_s=max_s)
    if length is not None:
        return length
    start = read_audio(path, sample_rate_hz=sample_rate_hz, max_s=min(max_s, _SHORT_S))
    if max_s <= _SHORT_S or len(start) < round(_SHORT_S * sample_rate_hz):
        return len(start)
    return round((max_s if stated_s is None else min(max_s, stated_s + _SLACK_S)) * sample_rate_hz)


def stated_length(end_s: float | None, *, sample_rate_hz: int, max_s: float) -> int | None:
    """Return the upper bound of `audio_length` from `MediaInfo.audio_end_s`; None if the file must be read.

    Other arguments as for `audio_length`.
    """
    if end_s is None or end_s < _SHORT_S:
        return None
    return round(min(max_s, end_s + _SLACK_S) * sample_rate_hz)


def _stated_s(path: Path) -> float | None:
    """Return the end of the audio that the headers state, in seconds from the file's start, or None."""
    with open_media(path) as container:
        stream = audio_stream(container)
        if stream is None:
            raise MediaError(path, "has no audio track")
        return audio_end_s(container, stream)
