import math
import resource
import sys

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llava_av.media.audio_resampling import AudioResampler

WANTED_HZ = 16_000
AMPLITUDE = 0.5


def _resample(
    samples: npt.NDArray[np.float32], rate_hz: int, wanted_hz: int, piece: int
) -> npt.NDArray[np.float32]:
    resampler = AudioResampler(rate_hz, wanted_hz)
    parts = [
        part for at in range(0, len(samples), piece) for part in resampler.push(samples[at : at + piece])
    ]
    return np.concatenate([*parts, *resampler.finish(), np.zeros(0, np.float32)])


def _tone(hz: float, rate_hz: int, count: int) -> npt.NDArray[np.float64]:
    return AMPLITUDE * np.sin(2 * np.pi * hz * np.arange(count) / rate_hz + 0.3)


def _decibels(signal: npt.NDArray[np.float64], noise: npt.NDArray[np.float64]) -> float:
    return float(10 * np.log10((signal**2).mean() / (noise**2).mean()))


@pytest.mark.parametrize(
    "rate_hz",
    [8_000, 11_025, 11_127, 22_050, 22_051, 44_099, 44_100, 44_101, 48_000, 96_000, 192_000, 768_000],
)
@pytest.mark.parametrize("share", [0.02, 0.3, 0.92])
def test_tones_keep_their_phase_and_level(rate_hz: int, share: float) -> None:
    hz = share * min(rate_hz, WANTED_HZ) / 2
    seen = _resample(_tone(hz, rate_hz, rate_hz).astype(np.float32), rate_hz, WANTED_HZ, 4096)
    assert len(seen) == WANTED_HZ
    wanted = _tone(hz, WANTED_HZ, WANTED_HZ)
    middle = slice(500, -500)
    # torchaudio's default reaches 15 to 82 dB here. Measured: 94 dB at least.
    assert _decibels(wanted[middle], (seen - wanted)[middle]) > 88


@pytest.mark.parametrize("rate_hz", [44_099, 44_100, 48_000, 192_000])
@pytest.mark.parametrize("hz", [8_160, 9_000, 17_000])
def test_tones_beyond_the_rate_are_attenuated(rate_hz: int, hz: int) -> None:
    seen = _resample(_tone(hz, rate_hz, rate_hz).astype(np.float32), rate_hz, WANTED_HZ, 4096)
    # torchaudio's default damps by 7 to 78 dB. Measured: 99 dB at least.
    assert _decibels(_tone(hz, WANTED_HZ, 15_000), seen[500:-500].astype(float)) > 90


@pytest.mark.parametrize("rate_hz", [8_000, 22_050, 44_100, 48_000])
def test_ordinary_rates_agree_with_a_long_filter_of_torchaudio(rate_hz: int) -> None:
    torch, functional = pytest.importorskip("torch"), pytest.importorskip("torchaudio.functional")
    noise = np.random.default_rng(0).normal(0, 0.1, rate_hz).astype(np.float32)
    smooth = np.fft.irfft(
        np.fft.rfft(noise) * (np.arange(rate_hz // 2 + 1) < 0.8 * min(rate_hz, WANTED_HZ) / 2)
    )
    samples = smooth.astype(np.float32)
    theirs = functional.resample(
        torch.from_numpy(samples), rate_hz, WANTED_HZ, lowpass_filter_width=200, rolloff=0.95
    ).numpy()
    ours = _resample(samples, rate_hz, WANTED_HZ, 1000)
    assert len(ours) == len(theirs)
    middle = slice(1000, -1000)
    # Measured: 100 dB at least.
    assert _decibels(theirs[middle].astype(float), (ours - theirs)[middle].astype(float)) > 90


@settings(max_examples=40, deadline=None)
@given(
    rate_hz=st.integers(1, 768_000),
    count=st.integers(0, 3000),
    piece=st.integers(1, 4000),
    seed=st.integers(0, 9),
)
def test_length_and_samples_depend_on_neither_pieces_nor_rates(
    rate_hz: int, count: int, piece: int, seed: int
) -> None:
    wanted_hz = min(WANTED_HZ, rate_hz * 1000)
    samples = np.random.default_rng(seed).uniform(-1, 1, count).astype(np.float32)
    seen = _resample(samples, rate_hz, wanted_hz, piece)
    assert len(seen) == math.ceil(count * wanted_hz / rate_hz)
    assert np.isfinite(seen).all()
    assert np.array_equal(seen, _resample(samples, rate_hz, wanted_hz, max(1, count)))


@pytest.mark.parametrize("rate_hz", [1, 22_051, 44_099, 44_101, 767_999])
def test_memory_is_that_of_the_result(rate_hz: int) -> None:
    before = _peak_mb()
    piece = np.zeros(min(rate_hz, 100_000), np.float32)
    resampler = AudioResampler(rate_hz, WANTED_HZ)
    for _ in range(math.ceil(3 * rate_hz / len(piece))):
        assert all(part.dtype == np.float32 for part in resampler.push(piece))
    assert sum(map(len, resampler.finish())) >= 0
    # torchaudio took 5.7 GB at 22,051 Hz. Measured: 50 MB, of the filter at 767,999 Hz.
    assert _peak_mb() - before < 200


def _peak_mb() -> float:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
