"""Sample rate conversion, piece by piece, with bounded memory and time for any pair of rates.

libswresample's polyphase filter has up to 1,024 phases and interpolates between them if the rates need more.
With 128 taps, a tone up to 92 % of the lower Nyquist frequency keeps a signal-to-noise ratio of at least
94 dB, and a tone above 102 % of it is attenuated by 99 dB (docs/media.md).
"""

import math
from collections.abc import Iterator
from fractions import Fraction

import av
import numpy as np
from av.filter import Graph

from llava_av.media.clip import Waveform

__all__ = ["AudioResampler"]

_TAPS, _CUTOFF, _PHASES_LOG2 = 128, 0.97, 10


class AudioResampler:
    """Converter of mono samples from one rate to another; sample 0 stays at time 0.

    Args:
        rate_hz: Samples per second of the input.
        wanted_hz: Samples per second of the output.
    """

    def __init__(self, rate_hz: int, wanted_hz: int) -> None:
        self._rate_hz, self._wanted_hz = rate_hz, wanted_hz
        self._pushed = self._pulled = 0
        self._graph = None if rate_hz == wanted_hz else _graph(rate_hz, wanted_hz)

    def push(self, samples: Waveform) -> Iterator[Waveform]:
        """Add `samples` `[n]` and yield what can be converted now."""
        if not len(samples):
            return
        if self._graph is None:
            self._pulled += len(samples)
            yield samples
        else:
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples[None]), "flt", "mono")
            frame.sample_rate, frame.time_base = self._rate_hz, Fraction(1, self._rate_hz)
            frame.pts = self._pushed
            self._graph.push(frame)
            yield from self._pull(self._graph)
        self._pushed += len(samples)

    def finish(self) -> Iterator[Waveform]:
        """Yield the rest, for a total of `ceil(pushed * wanted_hz / rate_hz)` samples."""
        if self._graph is None or not self._pushed:
            return
        self._graph.push(None)
        yield from self._pull(self._graph)
        missing = math.ceil(Fraction(self._pushed * self._wanted_hz, self._rate_hz)) - self._pulled
        if missing > 0:
            yield np.zeros(missing, np.float32)

    def _pull(self, graph: Graph) -> Iterator[Waveform]:
        while True:
            try:
                piece = graph.pull().to_ndarray()[0]
            except (av.error.BlockingIOError, av.error.EOFError):
                return
            self._pulled += len(piece)
            yield piece


def _graph(rate_hz: int, wanted_hz: int) -> Graph:
    graph = Graph()
    source = graph.add_abuffer(
        sample_rate=rate_hz, format="flt", layout="mono", time_base=Fraction(1, rate_hz)
    )
    # A filter for half the rate is twice as long and twice as smooth, so half the phases suffice.
    phases_log2 = _PHASES_LOG2 - int(math.log2(max(1, rate_hz / wanted_hz)))
    options = f"{wanted_hz}:filter_size={_TAPS}:cutoff={_CUTOFF}:phase_shift={max(4, phases_log2)}"
    resample, sink = graph.add("aresample", options), graph.add("abuffersink")
    source.link_to(resample)
    resample.link_to(sink)
    graph.configure()
    return graph
