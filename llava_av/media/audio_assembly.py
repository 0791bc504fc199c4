"""Assembly of a track's decoded audio on the file's clock: gaps become silence, all rates become one.

A track is a series of runs, each without gaps and with one rate. Each run has its own resampler, and the
next run starts at the position that its timestamp gives. Memory is that of the result, whatever the headers
state.
"""

import math
from collections.abc import Iterable
from fractions import Fraction

import numpy as np

from llava_av.media.audio_resampling import AudioResampler
from llava_av.media.clip import Waveform

__all__ = ["Assembly"]

# Containers round audio timestamps to milliseconds; only larger jumps are gaps or overlaps.
_JUMP_S = Fraction(2, 100)
# Shorter gaps become silence within a run, because creating a resampler takes longer.
_LONG_GAP_S = 1
_MOST_RUNS = 200


class Assembly:
    """Mono audio of one rate, assembled from pieces of any rate.

    Args:
        wanted_hz: Waveform per second of the result.
        end_s: Time at which the result ends; later audio is dropped.
    """

    def __init__(self, wanted_hz: int, end_s: Fraction) -> None:
        self._wanted_hz, self._end_s = wanted_hz, end_s
        self._parts: list[Waveform] = []
        self._length = 0
        self._at_s = Fraction(0)
        self._rate_hz: int | None = None
        self._run = AudioResampler(wanted_hz, wanted_hz)
        self._started = False
        self._runs = 0

    @property
    def full(self) -> bool:
        """True if the end is reached."""
        return self._at_s >= self._end_s

    def add(self, piece: Waveform, rate_hz: int, start_s: Fraction | None) -> None:
        """Append `piece` `[n]`, which starts at `start_s`, or at the end of the last piece if None.

        Raises:
            ValueError: The rate changes more often than in any real recording.
        """
        ahead_s = Fraction(0) if start_s is None else start_s - self._at_s
        # The start of the first audio is exact; later timestamps are rounded.
        jumps = abs(ahead_s) > _JUMP_S or not self._started
        left_s = max(Fraction(0), self._end_s - self._at_s)
        gap_s = min(ahead_s, left_s) if jumps and ahead_s > 0 else Fraction(0)
        if rate_hz != self._rate_hz or gap_s > _LONG_GAP_S:
            self._start_run(rate_hz, self._at_s + gap_s)
        elif gap_s:
            self._push(np.zeros(round(gap_s * rate_hz), np.float32))
        if jumps and ahead_s < 0:
            piece = piece[math.ceil(-ahead_s * rate_hz) :]
        piece = piece[: max(0, math.ceil((self._end_s - self._at_s) * rate_hz))]
        self._started = self._started or len(piece) > 0
        self._push(piece)

    def result(self) -> Waveform | None:
        """Return all samples `[m]`; None if no piece was added."""
        if self._rate_hz is None:
            return None
        self._finish_run()
        return np.concatenate([*self._parts, np.zeros(0, np.float32)])

    def _start_run(self, rate_hz: int, at_s: Fraction) -> None:
        """Start a run after a change of the rate or a gap."""
        self._runs += 1
        if self._runs > _MOST_RUNS:
            raise ValueError(f"more than {_MOST_RUNS} changes of its rate or long gaps")
        self._finish_run()
        self._at_s = at_s
        self._rate_hz, self._run = rate_hz, AudioResampler(rate_hz, self._wanted_hz)
        self._fit(math.ceil(at_s * self._wanted_hz))

    def _push(self, piece: Waveform) -> None:
        self._keep(self._run.push(piece))
        self._at_s += Fraction(len(piece), self._rate_hz or 1)

    def _finish_run(self) -> None:
        self._keep(self._run.finish())
        self._fit(math.ceil(self._at_s * self._wanted_hz))

    def _keep(self, pieces: Iterable[Waveform]) -> None:
        for piece in pieces:
            self._parts.append(piece)
            self._length += len(piece)

    def _fit(self, length: int) -> None:
        """Trim or pad the result to `length` samples."""
        while self._length > length:
            last = self._parts.pop()
            kept = last[: max(0, len(last) - (self._length - length))]
            self._length += len(kept) - len(last)
            if len(kept):
                self._parts.append(kept)
        if self._length < length:
            self._keep([np.zeros(length - self._length, np.float32)])
