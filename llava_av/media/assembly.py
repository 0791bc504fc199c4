"""Audio of a track on the file's clock: decoded pieces, gaps as silence, one rate.

A track is a series of runs, each without a gap and at one rate. A run goes through a resampler of its own,
and the next run starts at the place that its time gives. Memory is that of the result, whatever the headers
state.
"""

import math
from collections.abc import Iterable
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from llava_av.media.resample import AudioResampler

__all__ = ["Assembly"]

Samples = npt.NDArray[np.float32]
# Containers round the times of audio to milliseconds; only jumps beyond this are gaps or overlaps.
_JUMP_S = Fraction(2, 100)
# A shorter gap is silence within a run, since making a resampler takes longer than such a gap.
_LONG_GAP_S = 1
_MOST_RUNS = 200


class Assembly:
    """Mono audio of one rate, put together from pieces of any rate.

    Args:
        wanted_hz: samples per second of the result.
        end_s: time at which the result ends; pieces beyond it are cut off.
    """

    def __init__(self, wanted_hz: int, end_s: Fraction) -> None:
        self._wanted_hz, self._end_s = wanted_hz, end_s
        self._parts: list[Samples] = []
        self._length = 0
        self._at_s = Fraction(0)
        self._rate_hz: int | None = None
        self._run = AudioResampler(wanted_hz, wanted_hz)
        self._started = False
        self._runs = 0

    @property
    def full(self) -> bool:
        """Whether the end is reached."""
        return self._at_s >= self._end_s

    def add(self, piece: Samples, rate_hz: int, start_s: Fraction | None) -> None:
        """Append `piece` `[n]`, which starts at `start_s`; None: where the last one ended.

        Raises:
            ValueError: the rate changes so often that it is no audio.
        """
        ahead_s = Fraction(0) if start_s is None else start_s - self._at_s
        # Where the first audio starts is known exactly; later times are rounded.
        jumps = abs(ahead_s) > _JUMP_S or not self._started
        gap_s = min(ahead_s, self._end_s - self._at_s) if jumps and ahead_s > 0 else Fraction(0)
        if rate_hz != self._rate_hz or gap_s > _LONG_GAP_S:
            self._begin(rate_hz, self._at_s + gap_s)
        elif gap_s:
            self._push(np.zeros(round(gap_s * rate_hz), np.float32))
        if jumps and ahead_s < 0:
            piece = piece[math.ceil(-ahead_s * rate_hz) :]
        piece = piece[: max(0, math.ceil((self._end_s - self._at_s) * rate_hz))]
        self._started = self._started or len(piece) > 0
        self._push(piece)

    def result(self) -> Samples | None:
        """Return all samples `[m]`; None if no piece was added."""
        if self._rate_hz is None:
            return None
        self._finish_run()
        return np.concatenate([*self._parts, np.zeros(0, np.float32)])

    def _begin(self, rate_hz: int, at_s: Fraction) -> None:
        """Begin a run of another rate, or after a gap."""
        self._runs += 1
        if self._runs > _MOST_RUNS:
            raise ValueError(f"more than {_MOST_RUNS} changes of its rate or long gaps")
        self._finish_run()
        self._at_s = at_s
        self._rate_hz, self._run = rate_hz, AudioResampler(rate_hz, self._wanted_hz)
        self._fit(math.ceil(at_s * self._wanted_hz))

    def _push(self, piece: Samples) -> None:
        self._keep(self._run.push(piece))
        self._at_s += Fraction(len(piece), self._rate_hz or 1)

    def _finish_run(self) -> None:
        self._keep(self._run.finish())
        self._fit(math.ceil(self._at_s * self._wanted_hz))

    def _keep(self, pieces: Iterable[Samples]) -> None:
        for piece in pieces:
            self._parts.append(piece)
            self._length += len(piece)

    def _fit(self, length: int) -> None:
        """Make the result `length` samples long."""
        while self._length > length:
            last = self._parts.pop()
            kept = last[: max(0, len(last) - (self._length - length))]
            self._length += len(kept) - len(last)
            if len(kept):
                self._parts.append(kept)
        if self._length < length:
            self._keep([np.zeros(length - self._length, np.float32)])
