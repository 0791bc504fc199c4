"""The order of video and audio tokens."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from llava_av.model.sequence import AUDIO, VIDEO, interleave

times = st.lists(st.floats(0, 30), max_size=40).map(sorted)


@given(
    frame_times_s=times,
    tokens_per_frame=st.integers(1, 9),
    audio_tokens=st.integers(0, 200),
    audio_duration_s=st.floats(0.1, 30),
    chunk_s=st.none() | st.floats(0.1, 5),
)
def test_every_token_is_placed_once(frame_times_s, tokens_per_frame, audio_tokens, audio_duration_s, chunk_s):
    runs = interleave(frame_times_s, tokens_per_frame, audio_tokens, audio_duration_s, chunk_s)
    assert sum(count for kind, count in runs if kind == VIDEO) == len(frame_times_s) * tokens_per_frame
    assert sum(count for kind, count in runs if kind == AUDIO) == audio_tokens
    assert all(first[0] != second[0] for first, second in itertools.pairwise(runs))


def test_streams_alternate_in_chunks_of_half_a_second():
    runs = interleave([0.25, 0.75], 4, 4, 1.0, 0.5)
    assert runs == [(VIDEO, 4), (AUDIO, 2), (VIDEO, 4), (AUDIO, 2)]


def test_without_chunks_all_video_comes_first():
    assert interleave([0.25, 0.75], 4, 4, 1.0, None) == [(VIDEO, 8), (AUDIO, 4)]


def test_a_chunk_without_a_frame_holds_sound_alone():
    assert interleave([0.25], 2, 4, 2.0, 0.5) == [(VIDEO, 2), (AUDIO, 4)]


def test_neither_stream_gives_no_runs():
    assert interleave([], 4, 0, 0.0, 0.5) == []
