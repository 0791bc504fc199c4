"""The order of video and audio tokens."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_av.model.sequence.interleaving import (
    AUDIO,
    TIME,
    VIDEO,
    TokenRun,
    interleave,
)
from llava_av.model.sequence.token_counts import newline_tokens, slow_frames

frames = st.lists(st.tuples(st.floats(0, 30), st.integers(1, 9)), max_size=40).map(sorted)


def evenly(count, duration_s):
    return [(index + 0.5) * duration_s / count for index in range(count)]


def pairs(runs):
    return [(run.kind, run.text or run.count) for run in runs]


@given(
    frames=frames,
    audio_times_s=st.lists(st.floats(0, 30), max_size=200).map(sorted),
    chunk_s=st.none() | st.floats(0.1, 5),
    timestamps=st.booleans(),
)
def test_every_token_is_placed_once(frames, audio_times_s, chunk_s, timestamps):
    times, tokens = [time for time, _ in frames], [count for _, count in frames]
    runs = interleave(times, tokens, audio_times_s, chunk_s, timestamps=timestamps)
    assert sum(run.count for run in runs if run.kind == VIDEO) == sum(tokens)
    assert sum(run.count for run in runs if run.kind == AUDIO) == len(audio_times_s)
    assert all(first.kind != second.kind for first, second in itertools.pairwise(runs))
    assert all(bool(run.text) is (run.kind == TIME) and (run.count > 0) is not bool(run.text) for run in runs)
    assert timestamps or all(run.kind != TIME for run in runs)
    assert not (timestamps and runs) or runs[0].kind == TIME


@given(
    frames=frames,
    audio_times_s=st.lists(st.floats(0, 30), min_size=1, max_size=50).map(sorted),
    chunk_s=st.floats(0.2, 5),
)
def test_a_frame_is_less_than_a_chunk_away_from_its_audio(frames, audio_times_s, chunk_s):
    """What comes before a token in the sequence is at most the rest of its chunk ahead of it in time."""
    runs = interleave([time for time, _ in frames], [1] * len(frames), audio_times_s, chunk_s)
    modalities = {
        VIDEO: iter([time for time, _ in frames]),
        AUDIO: iter(audio_times_s),
    }
    times = [next(modalities[run.kind]) for run in runs for _ in range(run.count)]
    latest = 0.0
    for time in times:
        assert time > latest - chunk_s * (1 + 1e-9)
        latest = max(latest, time)


def test_modalities_alternate_in_chunks_of_half_a_second():
    runs = interleave([0.25, 0.75], [4, 4], evenly(4, 1.0), 0.5)
    assert pairs(runs) == [(VIDEO, 4), (AUDIO, 2), (VIDEO, 4), (AUDIO, 2)]


def test_without_chunks_all_video_comes_first():
    assert pairs(interleave([0.25, 0.75], [4, 4], evenly(4, 1.0), None)) == [(VIDEO, 8), (AUDIO, 4)]


def test_a_chunk_without_a_frame_has_only_audio():
    assert pairs(interleave([0.25], [2], evenly(4, 2.0), 0.5)) == [(VIDEO, 2), (AUDIO, 4)]


def test_no_media_have_no_runs():
    assert interleave([], [], [], 0.5, timestamps=True) == []


def test_times_precede_each_chunk():
    runs = interleave([0.25, 1.75], [2, 2], evenly(4, 1.0), 0.5, timestamps=True)
    assert pairs(runs) == [
        (TIME, "0.00s"),
        (VIDEO, 2),
        (AUDIO, 2),
        (TIME, "0.50s"),
        (AUDIO, 2),
        (TIME, "1.50s"),
        (VIDEO, 2),
    ]


def test_without_chunks_times_precede_each_frame_and_the_audio():
    runs = interleave([0.25, 0.75], [2, 3], evenly(4, 1.0), None, timestamps=True)
    assert pairs(runs) == [
        (TIME, "0.25s"),
        (VIDEO, 2),
        (TIME, "0.75s"),
        (VIDEO, 3),
        (TIME, "0.00s"),
        (AUDIO, 4),
    ]


def test_another_number_of_times_than_of_frames_is_rejected_with_both():
    with pytest.raises(ValueError, match="2 times of 3 frames"):
        interleave([0.0, 1.0], [1, 1, 1], [], 0.5)


def test_one_frame_in_so_many_is_slow_beginning_with_the_first():
    assert slow_frames(5, 3) == [True, False, False, True, False]
    assert slow_frames(3, None) == [True] * 3
    assert slow_frames(0, 2) == []


def test_newlines_of_a_frame():
    assert [newline_tokens(mode, 4) for mode in ("none", "one", "frame", "grid")] == [0, 0, 1, 4]


def test_runs_of_one_kind_are_joined():
    assert interleave([0.0, 0.1], [1, 2], [], 0.5) == [TokenRun(VIDEO, 3)]
