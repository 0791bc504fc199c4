"""The loader's cache: bounded for any samples, with one copy of shared media."""

import numpy as np
import pytest

from llava_av.datasets.schema import Sample
from llava_av.media.clip import Clip
from llava_av.training.encoded_cache import EncodedCache, UnfitSampleError
from tests.model_samples import clip, tiny_model

LIMIT = 200_000


def sample(number: int, question: str = "Which colour is shown?", **media) -> Sample:
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": "red"}]
    return Sample.model_validate({"id": f"s{number}", "kind": "colour", "conversations": turns, **media})


@pytest.fixture(scope="module")
def processor():
    return tiny_model()[1]


def limited(rule: str, tokens: int):
    return tiny_model(model__max_tokens=tokens, model__over_limit=rule)[1]


def test_text_only_samples_do_not_grow_the_cache_without_bound(processor) -> None:
    cache = EncodedCache(processor, lambda one: Clip(), max_bytes=LIMIT)
    sizes = []
    for number in range(300):
        encoded, _ = cache.get(sample(number))
        sizes.append(cache.nbytes)
    assert len(encoded.input_ids) * 300 * 44 > LIMIT
    assert max(sizes) <= LIMIT
    assert cache.get(sample(299))[0] is encoded


def test_many_questions_about_one_clip_stay_within_the_bound(processor) -> None:
    one = clip()
    loads = []
    cache = EncodedCache(
        processor, lambda asked: loads.append(asked.id) or one, max_bytes=one.nbytes + 20_000
    )
    for number in range(100):
        _, shared = cache.get(sample(number, video=["a.mp4"]))
        assert shared is one
        assert cache.nbytes < one.nbytes + 60_000
    assert len(loads) == 1


def test_the_least_recently_used_clip_is_dropped(processor) -> None:
    loads: list[str] = []
    cache = EncodedCache(
        processor, lambda asked: loads.append(asked.video[0]) or clip(), max_bytes=5 * clip().nbytes // 2
    )
    for name in ("a", "b", "a", "c", "a", "b"):
        cache.get(sample(0, video=[name]))
    assert loads == ["a", "b", "c", "b"]
    assert cache.nbytes <= 5 * clip().nbytes // 2


@pytest.mark.parametrize(("rule", "tokens"), [("fewer_frames", 22), ("shorter_audio", 22)])
def test_samples_that_were_shortened_alike_share_their_media(rule: str, tokens: int) -> None:
    processor = limited(rule, tokens)
    cache = EncodedCache(processor, lambda one: clip(), max_bytes=2**24)
    encoded = [cache.get(sample(number, video=["a.mp4"]))[0] for number in range(3)]
    whole = clip().videos[0]
    assert len(encoded[0].frames_nhwc[0]) < len(whole.frames_nhwc) or len(encoded[0].audios[0]) < 32_000
    for name in ("frames_nhwc", "audios"):
        assert len({id(array) for one in encoded for array in getattr(one, name)}) == 1
    batch = processor.collate(encoded)
    assert len(batch["video_frames"]) == len(batch["audio_lengths"]) == 1
    alone = processor.collate([processor.encode(turns(sample(0)), clip())])
    assert np.array_equal(batch["pixel_values_videos"], alone["pixel_values_videos"])


@pytest.mark.parametrize(("rule", "tokens"), [("fewer_frames", 22), ("shorter_audio", 22)])
def test_a_batch_has_media_that_were_shortened_alike_once(rule: str, tokens: int) -> None:
    processor = limited(rule, tokens)
    one, other = clip(), clip(1)
    encoded = [processor.encode(turns(sample(0)), each) for each in (one, other, one)]
    batch = processor.collate(encoded)
    assert batch["video_order"].tolist() == batch["audio_order"].tolist() == [0, 1, 0]
    assert len(batch["video_frames"]) == len(batch["audio_lengths"]) == 2


def turns(one: Sample) -> list[tuple[str, str]]:
    return [(turn.speaker, turn.value) for turn in one.conversations]


def test_an_unfit_sample_is_named() -> None:
    cache = EncodedCache(limited("refuse", 5), lambda one: Clip(), max_bytes=LIMIT)
    with pytest.raises(UnfitSampleError, match="tokens"):
        cache.get(sample(7))
