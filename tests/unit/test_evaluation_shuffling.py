import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_av.evaluation.shuffling import ring_of_clips, with_audio_of
from llava_av.media.clip import Clip, Video


def clip(samples: int | None, value: float = 1.0, audios: tuple[int, ...] = ()) -> Clip:
    audio = None if samples is None else np.full(samples, value, np.float32)
    video = Video(frames_nhwc=np.zeros((2, 8, 8, 3), np.uint8), frame_times_s=(0.0, 0.5), audio=audio)
    return Clip(videos=(video,), audios=tuple(np.full(size, value, np.float32) for size in audios))


@given(count=st.integers(2, 60), seed=st.integers(0, 1000))
def test_no_clip_keeps_its_audio_and_each_lends_once(count: int, seed: int) -> None:
    ring = ring_of_clips(range(count), seed)
    assert set(ring) == set(ring.values()) == set(range(count))
    assert all(key != lender for key, lender in ring.items())
    assert list(ring) == [*list(ring.values())[-1:], *list(ring.values())[:-1]]
    assert ring_of_clips(range(count), seed) == ring


def test_the_order_depends_on_the_seed_alone() -> None:
    assert ring_of_clips("abcde", 0) != ring_of_clips("abcde", 1)
    assert list(ring_of_clips("abcde", 0)) == ["b", "a", "c", "e", "d"]


def test_one_clip_has_no_lender() -> None:
    assert ring_of_clips(["a"], 0) == {}
    with pytest.raises(ValueError, match="2 keys, 1 unique"):
        ring_of_clips(["a", "a"], 0)


@pytest.mark.parametrize(("own", "lent"), [(5, 9), (9, 5), (4, 4), (11, 2)])
def test_audio_is_cut_or_repeated_to_the_original_length(own: int, lent: int) -> None:
    lender = Clip(audios=(np.arange(lent, dtype=np.float32),))
    given_ = clip(own)
    changed = with_audio_of(given_, lender)
    audio = changed.videos[0].audio
    assert audio is not None
    assert audio.tolist() == [float(index % lent) for index in range(own)]
    assert audio.dtype == np.float32
    assert changed.videos[0].frames_nhwc is given_.videos[0].frames_nhwc


def test_all_audio_is_replaced_and_none_is_added() -> None:
    changed = with_audio_of(clip(3, audios=(2, 4)), clip(8, value=7.0))
    assert [audio.tolist() for audio in changed.audios] == [[7.0] * 2, [7.0] * 4]
    assert with_audio_of(clip(None), clip(8)).videos[0].audio is None
    with pytest.raises(ValueError, match="lender has no audio"):
        with_audio_of(clip(3), clip(None))
