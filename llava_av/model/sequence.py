"""The order of video and audio tokens in the sequence, known from media metadata alone."""

from collections.abc import Sequence

__all__ = ["AUDIO", "VIDEO", "interleave"]

VIDEO = "video"
AUDIO = "audio"


def interleave(
    frame_times_s: Sequence[float],
    tokens_per_frame: int,
    audio_tokens: int,
    audio_duration_s: float,
    chunk_s: float | None,
) -> list[tuple[str, int]]:
    """Lays out one clip as runs of video and audio tokens.

    Tokens belong to the chunk of `chunk_s` seconds in which their frame, or the middle of their stretch of
    sound, lies; each chunk holds its video tokens, then its audio tokens. Both streams keep their order.

    Args:
        frame_times_s: time of each frame in seconds, ascending; empty without video.
        tokens_per_frame: tokens of one frame.
        audio_tokens: tokens of the whole sound; 0 without sound.
        audio_duration_s: length of the sound in seconds.
        chunk_s: length of a chunk in seconds; None puts all video before all sound.

    Returns:
        Runs of (`VIDEO` or `AUDIO`, number of tokens), neighbours of one kind joined.
    """
    audio_times = [(index + 0.5) * audio_duration_s / audio_tokens for index in range(audio_tokens)]
    events = [(time, 0, VIDEO, tokens_per_frame) for time in frame_times_s]
    events += [(time, 1, AUDIO, 1) for time in audio_times]
    if chunk_s is None:
        events.sort(key=lambda event: event[1])
    else:
        events.sort(key=lambda event: (int(event[0] // chunk_s), event[1]))
    runs: list[tuple[str, int]] = []
    for _, _, kind, count in events:
        if runs and runs[-1][0] == kind:
            runs[-1] = (kind, runs[-1][1] + count)
        else:
            runs.append((kind, count))
    return runs
