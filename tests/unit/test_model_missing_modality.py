"""Models without audio or without vision, with videos as input."""

import dataclasses
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llava_av.datasets.loading import load_clip
from llava_av.datasets.schema import Sample
from llava_av.errors import UserError
from llava_av.evaluation.answering import AnswerCache, Answerer
from llava_av.evaluation.question_batches import Question
from llava_av.inference.chat import Conversation
from llava_av.inference.chat_media import ChatMedia
from llava_av.media.clip import Clip
from llava_av.model import IGNORE
from llava_av.training.encoded_cache import EncodedCache
from llava_av.vocabulary import Ablation
from tests.loaded_steps import load_step
from tests.media_samples import click, write_grey_clip
from tests.model_samples import clip, image, tiny_model, video, waveform

TURNS = [("human", "What do you hear?"), ("gpt", "red")]


@pytest.fixture(scope="module", params=[{}, {"model__timestamps": True}], ids=["plain", "times"])
def without_vision(request):
    return tiny_model(model__vision=None, **request.param)


@pytest.fixture(scope="module")
def without_audio():
    return tiny_model(model__audio=None)


@settings(max_examples=15)
@given(
    media=st.lists(st.sampled_from(["<video>", "<audio>"]), max_size=4),
    named=st.integers(0, 4),
    samples=st.lists(st.integers(2_000, 30_000), min_size=4, max_size=4),
)
def test_the_audio_of_a_video_has_the_position_of_the_video(without_vision, media, named, samples):
    model, processor = without_vision
    of_media = dict(enumerate(zip(media, samples, strict=False)))
    shown = Clip(
        videos=tuple(video(n, frames=2, samples=s) for n, (mark, s) in of_media.items() if mark == "<video>"),
        audios=tuple(waveform(n, samples=s) for n, (mark, s) in of_media.items() if mark == "<audio>"),
    )
    turns = [("human", "".join(media[:named]) + TURNS[0][1]), TURNS[1]]
    encoded = processor.encode(turns, shown)
    unnamed = sorted(of_media.items(), key=lambda item: (item[0] < named, item[1][0] != "<video>", item[0]))
    first = [n for n, _ in unnamed if n >= named]
    later = [n for n in of_media if n < named]
    if not first:
        assert [len(one) for one in encoded.audios] == [of_media[n][1] for n in later]
    assert sum(map(len, encoded.audios)) == sum(one for _, one in of_media.values())
    counted = encoded.input_ids.count(processor.config.audio_token_id)
    assert counted == sum(processor.token_counts.audio_tokens(len(one)) for one in encoded.audios)
    assert processor.measure(turns, shown).tokens == len(encoded.input_ids)
    with torch.no_grad():
        assert model(**processor.collate([encoded])).loss.isfinite()


def test_a_model_without_vision_ignores_frames(without_vision):
    _, processor = without_vision
    one = clip(0)
    blind = dataclasses.replace(one, videos=one.without(video=True, audio=False).videos)
    heard, same = processor.encode(TURNS, one), processor.encode(TURNS, blind)
    assert heard.input_ids == same.input_ids
    assert not heard.frames_nhwc
    assert [token for token in heard.labels if token != IGNORE]


def test_a_video_without_a_supported_modality_is_rejected_in_one_line(without_vision, without_audio):
    _, hears = without_vision
    _, sees = without_audio
    both = Clip(videos=(video(), video(samples=None)))
    with pytest.raises(ValueError, match="video 2 of 2 has no audio, and the model has no vision part"):
        hears.encode(TURNS, both)
    with pytest.raises(ValueError, match="video 1 of 1 has no frames, and the model has no audio part"):
        sees.encode(TURNS, clip().without(video=True, audio=False))
    with pytest.raises(ValueError, match="1 image files do not fit the model, which accepts audio"):
        hears.encode(TURNS, Clip(images_nhwc=(image(),)))


@pytest.mark.parametrize("lacks", ["vision", "audio"])
def test_every_ablation_works_with_a_model_without_a_modality(lacks, without_vision, without_audio):
    """A video without a supported modality leaves the question without media, with the same answer."""
    model, processor = without_vision if lacks == "vision" else without_audio
    answerer = Answerer(model, processor, max_new_tokens=2, rule="choice")
    turns = [{"from": who, "value": text} for who, text in [("human", "<video>\nWhat?"), TURNS[1]]]
    sample = Sample.model_validate({"id": "a", "conversations": turns, "video": "a.mp4"})
    question = Question(sample=sample, clip=clip(0), lender=clip(1))
    output = AnswerCache()
    losses = {str(one): answerer.answer([question], one, output).predictions[0].loss for one in Ablation}
    left, gone = ("audio_only", "video_only") if lacks == "vision" else ("video_only", "audio_only")
    assert losses["av"] == losses[left] != losses["text_only"]
    assert losses[gone] == pytest.approx(losses["text_only"], abs=0.5)
    assert (losses["shuffled_audio"] == losses["av"]) == (lacks == "audio")


def test_a_model_without_vision_answers_about_videos_and_trains_on_them(without_vision, tmp_path: Path):
    model, processor = without_vision
    for part in (model, processor):
        part.save_pretrained(tmp_path / "model")
    write_grey_clip(tmp_path / "loud.mp4", click(0.5))
    write_grey_clip(tmp_path / "mute.mp4")
    talk = Conversation(tmp_path / "model", ChatMedia(video=tmp_path / "loud.mp4"), max_new_tokens=2)
    talk.ask("What do you hear?")
    silent = Conversation(tmp_path / "model", ChatMedia(video=tmp_path / "mute.mp4"), max_new_tokens=2)
    with pytest.raises(UserError, match="video 1 of 1 has no audio, and the model has no vision part"):
        silent.ask("What do you hear?")
    turns = [{"from": who, "value": text} for who, text in [("human", "<video>\nWhat?"), TURNS[1]]]
    samples = [
        Sample.model_validate({"id": name, "conversations": turns, "video": f"{name}.mp4"})
        for name in ("loud", "mute")
    ]
    media = processor.config.media_recipe()
    cache = EncodedCache(processor, lambda one: load_clip(tmp_path, one, media), max_bytes=2**20)
    batch = load_step(samples, processor, cache)
    assert [(one.id, "video 1 of 1 has no audio" in one.reason) for one in batch.failed] == [("mute", True)]
    assert batch.ids == (samples[0].id,)
    assert model(**batch.micro_batches[0].tensors).loss.isfinite()
