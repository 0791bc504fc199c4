from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llava_av.media.audio_assembly import Assembly

WANTED_HZ = 16_000
END_S = Fraction(10)


def _assembled(*pieces: tuple[npt.NDArray[np.float32], int, Fraction | None]) -> npt.NDArray[np.float32]:
    assembly = Assembly(WANTED_HZ, END_S)
    for piece, rate_hz, start_s in pieces:
        assembly.add(piece, rate_hz, start_s)
    result = assembly.result()
    assert result is not None
    return result


def _loud(seconds: float, rate_hz: int) -> npt.NDArray[np.float32]:
    return np.full(round(seconds * rate_hz), 0.5, np.float32)


def _loud_spans(sound: npt.NDArray[np.float32]) -> list[tuple[float, float]]:
    """Return start and end in seconds of each part that is not silent."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], np.abs(sound) > 0.25, [False]]).astype(int)))
    return [(start / WANTED_HZ, end / WANTED_HZ) for start, end in edges.reshape(-1, 2)]


@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 22_051, 48_000])
@pytest.mark.parametrize("gap_s", [0.05, 0.5, 3.0])
def test_gaps_are_silence_of_their_length(rate_hz: int, gap_s: float) -> None:
    piece = _loud(0.5, rate_hz)
    sound = _assembled((piece, rate_hz, Fraction(0)), (piece, rate_hz, Fraction(1, 2) + Fraction(gap_s)))
    spans = _loud_spans(sound)
    assert np.allclose(spans, [(0, 0.5), (0.5 + gap_s, 1 + gap_s)], atol=2e-3)
    assert len(sound) == pytest.approx((1 + gap_s) * WANTED_HZ, abs=2)


def test_small_jumps_are_rounding_of_times() -> None:
    pieces = [(_loud(0.1, 44_100), 44_100, Fraction(n, 10) + Fraction(n % 3, 100)) for n in range(10)]
    assert _loud_spans(_assembled(*pieces)) == [(0.0, pytest.approx(1.0, abs=1e-3))]


def test_overlaps_are_cut_and_audio_before_the_start_is_left_out() -> None:
    piece = _loud(1, 48_000)
    assert len(_assembled((piece, 48_000, Fraction(-1, 2)))) == WANTED_HZ // 2
    assert len(_assembled((piece, 48_000, Fraction(-5)), (piece, 48_000, Fraction(0)))) == WANTED_HZ
    sound = _assembled((piece, 48_000, Fraction(0)), (piece, 48_000, Fraction(1, 2)))
    assert len(sound) == pytest.approx(1.5 * WANTED_HZ, abs=1)


def test_audio_that_starts_late_begins_with_silence_to_the_sample() -> None:
    sound = _assembled((_loud(0.5, WANTED_HZ), WANTED_HZ, Fraction(150, WANTED_HZ)))
    assert not sound[:150].any()
    assert sound[150:].all()


def test_a_change_of_rate_continues_at_the_same_time() -> None:
    rates = (8_000, 44_100, 22_051, 96_000)
    sound = _assembled(*((_loud(0.5, rate), rate, None) for rate in rates))
    assert len(sound) == pytest.approx(2 * WANTED_HZ, abs=len(rates))
    assert _loud_spans(sound) == [(0.0, pytest.approx(2.0, abs=1e-3))]


def test_a_rate_that_changes_constantly_is_refused() -> None:
    with pytest.raises(ValueError, match="more than 200 changes of its rate"):
        _assembled(*((_loud(0.001, rate), rate, None) for rate in (8_000, 9_000) * 200))


def test_no_pieces_give_no_result() -> None:
    assert Assembly(WANTED_HZ, END_S).result() is None


@settings(max_examples=60, deadline=None)
@given(
    pieces=st.lists(
        st.tuples(
            st.integers(0, 3000),
            st.sampled_from([1, 8_000, 44_099, 768_000]),
            st.one_of(st.none(), st.fractions(-(2**40), 2**40, max_denominator=90_000), st.fractions(0, 12)),
        ),
        max_size=8,
    )
)
def test_the_result_ends_at_the_limit_for_any_times(
    pieces: list[tuple[int, int, Fraction | None]],
) -> None:
    assembly = Assembly(WANTED_HZ, END_S)
    for count, rate_hz, start_s in pieces:
        assembly.add(np.ones(count, np.float32), rate_hz, start_s)
    result = assembly.result()
    assert (result is None) == (not pieces)
    # The last sample of a low rate may extend beyond the end; readers truncate it.
    assert result is None or len(result) <= (END_S + 1) * WANTED_HZ
    assert result is None or np.isfinite(result).all()
