"""Order of video and audio tokens in the sequence, which follows from media metadata alone."""

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["AUDIO", "TIME", "VIDEO", "TokenRun", "interleave"]

VIDEO = "video"
AUDIO = "audio"
TIME = "time"


@dataclass(frozen=True)
class TokenRun:
    """Neighbouring tokens of one kind."""

    kind: str
    """`VIDEO`, `AUDIO` or `TIME`."""
    count: int
    """Number of placeholder tokens; 0 for `TIME`, which is text."""
    text: str = ""
    """Text of `TIME`."""


def interleave(
    frame_times_s: Sequence[float],
    frame_tokens: Sequence[int],
    audio_times_s: Sequence[float],
    chunk_s: float | None,
    *,
    timestamps: bool = False,
) -> list[TokenRun]:
    """Lay out one clip as runs of video and audio tokens.

    A token belongs to the chunk of `chunk_s` seconds that contains its time; each chunk has its video tokens,
    then its audio tokens. Both modalities keep their order.

    Args:
        frame_times_s: Time of each frame in seconds, ascending; empty without video.
        frame_tokens: Number of tokens of each frame.
        audio_times_s: Time of each audio token in seconds, ascending (`TokenCounts.audio_times_s`); empty
            without audio.
        chunk_s: Length of a chunk in seconds; None puts all video before all audio.
        timestamps: True to write times as text: the start before each chunk or, without chunks, the time
            before each frame and the start before the audio.

    Returns:
        Runs in order; neighbours of one kind are joined.

    Raises:
        ValueError: The numbers of times and frames differ; names both.
    """
    if len(frame_times_s) != len(frame_tokens):
        raise ValueError(f"{len(frame_times_s)} times of {len(frame_tokens)} frames: give one time for each")
    frames = [_Event(time, False, count) for time, count in zip(frame_times_s, frame_tokens, strict=True)]
    events = frames + [_Event(time, True, 1) for time in audio_times_s]
    if chunk_s is None:
        return _joined(_without_chunks(events, timestamps))
    events.sort(key=lambda event: (event.chunk(chunk_s), event.is_audio))
    runs: list[TokenRun] = []
    chunk = -1
    for event in events:
        if timestamps and event.chunk(chunk_s) != chunk:
            chunk = event.chunk(chunk_s)
            runs.append(_time(chunk * chunk_s))
        runs.append(event.run())
    return _joined(runs)


@dataclass(frozen=True)
class _Event:
    time_s: float
    is_audio: bool
    tokens: int

    def chunk(self, chunk_s: float) -> int:
        return int(self.time_s // chunk_s)

    def run(self) -> TokenRun:
        return TokenRun(AUDIO if self.is_audio else VIDEO, self.tokens)


def _without_chunks(events: Sequence[_Event], timestamps: bool) -> list[TokenRun]:
    runs: list[TokenRun] = []
    audio_started = False
    for event in events:
        if timestamps and not (event.is_audio and audio_started):
            runs.append(_time(0.0 if event.is_audio else event.time_s))
        audio_started = audio_started or event.is_audio
        runs.append(event.run())
    return runs


def _time(seconds: float) -> TokenRun:
    return TokenRun(TIME, 0, f"{seconds:.2f}s")


def _joined(runs: Sequence[TokenRun]) -> list[TokenRun]:
    joined: list[TokenRun] = []
    for run in runs:
        if joined and run.kind != TIME and joined[-1].kind == run.kind:
            joined[-1] = TokenRun(run.kind, joined[-1].count + run.count)
        else:
            joined.append(run)
    return joined
