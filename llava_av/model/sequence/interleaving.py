"""The order of video and audio tokens in the sequence, known from media metadata alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

__all__ = ["AUDIO", "TIME", "VIDEO", "Run", "interleave", "newline_tokens", "slow_frames"]

VIDEO = "video"
AUDIO = "audio"
TIME = "time"


@dataclass(frozen=True)
class Run:
    """Neighbouring tokens of one kind."""

    kind: str
    """`VIDEO`, `AUDIO` or `TIME`."""
    count: int
    """Placeholders; 0 of `TIME`, which is text."""
    text: str = ""
    """What `TIME` says."""


def interleave(
    frame_times_s: Sequence[float],
    frame_tokens: Sequence[int],
    audio_times_s: Sequence[float],
    chunk_s: float | None,
    *,
    timestamps: bool = False,
) -> list[Run]:
    """Lays out one clip as runs of video and audio tokens.

    Tokens belong to the chunk of `chunk_s` seconds in which their time lies; each chunk holds its video
    tokens, then its audio tokens. Both modalities keep their order.

    Args:
        frame_times_s: time of each frame in seconds, ascending; empty without video.
        frame_tokens: tokens of each frame.
        audio_times_s: time of each audio token in seconds, ascending (`MediaLayout.audio_times_s`); empty
            without audio.
        chunk_s: length of a chunk in seconds; None puts all video before all sound.
        timestamps: write the time as text: where each chunk begins before it, or, without chunks, the time of
            each frame before that frame and that of the sound's beginning before the sound.

    Returns:
        Runs in order, neighbours of one kind joined.

    Raises:
        ValueError: another number of times than of frames, with both.
    """
    if len(frame_times_s) != len(frame_tokens):
        raise ValueError(f"{len(frame_times_s)} times of {len(frame_tokens)} frames")
    frames = [_Event(time, 0, count) for time, count in zip(frame_times_s, frame_tokens, strict=True)]
    events = frames + [_Event(time, 1, 1) for time in audio_times_s]
    if chunk_s is None:
        return _runs(_plain(events, timestamps))
    events.sort(key=lambda event: (event.chunk(chunk_s), event.stream))
    runs: list[Run] = []
    chunk = -1
    for event in events:
        if timestamps and event.chunk(chunk_s) != chunk:
            chunk = event.chunk(chunk_s)
            runs.append(_time(chunk * chunk_s))
        runs.append(event.run())
    return _runs(runs)


def slow_frames(frames: int, every: int | None) -> list[bool]:
    """Which frames of a video are in its slow stream, with finer tokens (arXiv 2410.02713, section 3.2).

    Args:
        frames: frames of the video.
        every: one in so many, beginning with the first; None: all.
    """
    return [every is None or index % every == 0 for index in range(frames)]


def newline_tokens(newline: Literal["none", "one", "frame", "grid"], rows: int | None) -> int:
    """Newline tokens that belong to one frame; that of `one` belongs to the video.

    Args:
        newline: where newlines stand: nowhere, at a video's end, after each frame, or after each row.
        rows: rows of the frame's tokens; needed by `grid`.
    """
    return {"none": 0, "one": 0, "frame": 1, "grid": rows or 0}[newline]


@dataclass(frozen=True)
class _Event:
    time_s: float
    stream: int
    tokens: int

    def chunk(self, chunk_s: float) -> int:
        return int(self.time_s // chunk_s)

    def run(self) -> Run:
        return Run(AUDIO if self.stream else VIDEO, self.tokens)


def _plain(events: Sequence[_Event], timestamps: bool) -> list[Run]:
    runs: list[Run] = []
    heard = False
    for event in events:
        if timestamps and not (event.stream and heard):
            runs.append(_time(0.0 if event.stream else event.time_s))
        heard = heard or bool(event.stream)
        runs.append(event.run())
    return runs


def _time(seconds: float) -> Run:
    return Run(TIME, 0, f"{seconds:.2f}s")


def _runs(runs: Sequence[Run]) -> list[Run]:
    joined: list[Run] = []
    for run in runs:
        if joined and run.kind != TIME and joined[-1].kind == run.kind:
            joined[-1] = Run(run.kind, joined[-1].count + run.count)
        else:
            joined.append(run)
    return joined
