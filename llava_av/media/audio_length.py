"""Length of a file's decoded audio, predicted from its headers."""

from pathlib import Path

from llava_av.media.container import MediaError, open_media
from llava_av.media.decode import read_audio
from llava_av.media.tracks import audio_stream, stated_end, time_zero

__all__ = ["audio_length"]

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
    if stated_s is None or stated_s < _SHORT_S:
        start = read_audio(path, sample_rate_hz=sample_rate_hz, max_s=min(max_s, _SHORT_S))
        if max_s <= _SHORT_S or len(start) < round(_SHORT_S * sample_rate_hz):
            return len(start)
    return round((max_s if stated_s is None else min(max_s, stated_s + _SLACK_S)) * sample_rate_hz)


def _stated_s(path: Path) -> float | None:
    """Return the end of the audio that the headers state, in seconds from the file's start, or None."""
    with open_media(path) as container:
        stream = audio_stream(container)
        if stream is None:
            raise MediaError(path, "has no audio track")
        end = stated_end(stream)
        return None if end is None else float(end - time_zero(container))
