"""Placeholders, labels and batches."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llava_av.media.clip import Clip
from llava_av.model import IGNORE
from tests.model_samples import clip, image, tiny_model, video, waveform


@pytest.fixture(scope="module")
def parts():
    return tiny_model()


def ids_of(processor, kind):
    return getattr(processor.config, f"{kind}_token_id")


def test_a_placeholder_becomes_the_tokens_of_its_media(parts):
    _, processor = parts
    encoded = processor.encode([("human", "<video>\nWhich colour?"), ("gpt", "red")], clip(frames=4))
    config = processor.config
    assert encoded.input_ids.count(config.video_token_id) == 4 * processor.token_counts.frame_tokens()
    assert encoded.input_ids.count(config.audio_token_id) == processor.token_counts.audio_tokens(32_000)


def test_media_without_a_placeholder_come_first(parts):
    _, processor = parts
    named = processor.encode([("human", "<video>\nWhich?"), ("gpt", "red")], clip())
    unnamed = processor.encode([("human", "\nWhich?"), ("gpt", "red")], clip())
    assert named.input_ids == unnamed.input_ids


def test_more_placeholders_than_media_are_rejected_with_both_counts(parts):
    _, processor = parts
    with pytest.raises(ValueError, match="2 <video> placeholders but 1 video"):
        processor.encode([("human", "<video><video>"), ("gpt", "red")], clip())


def test_labels_cover_the_assistants_turns_alone(parts):
    _, processor = parts
    turns = [("human", "<video>\nWhich?"), ("gpt", "red"), ("human", "Which?"), ("gpt", "green")]
    encoded = processor.encode(turns, clip())
    labelled = [token for token in encoded.labels if token != IGNORE]
    assert processor.tokenizer.decode(labelled) == "red<|im_end|>green<|im_end|>"
    last = processor.encode(turns, clip(), last_only=True)
    assert processor.tokenizer.decode([t for t in last.labels if t != IGNORE]) == "green<|im_end|>"
    assert len(encoded.labels) == len(encoded.input_ids)


def test_a_reply_continues_where_the_answer_stood(parts):
    _, processor = parts
    asked = processor.encode([("human", "<video>\nWhich?")], clip(), reply=True).input_ids
    answered = processor.encode([("human", "<video>\nWhich?"), ("gpt", "red")], clip()).input_ids
    assert answered[: len(asked)] == asked


def test_a_removed_modality_leaves_no_token(parts):
    _, processor = parts
    turns = [("human", "<video>\nWhich?"), ("gpt", "red")]
    for video_gone, audio_gone in ((True, False), (False, True), (True, True)):
        encoded = processor.encode(turns, clip().without(video=video_gone, audio=audio_gone))
        assert (ids_of(processor, "video") in encoded.input_ids) is not video_gone
        assert (ids_of(processor, "audio") in encoded.input_ids) is not audio_gone
        assert bool(encoded.frames_nhwc) is not video_gone
        assert bool(encoded.audios) is not audio_gone


def test_shared_media_are_in_the_batch_once(parts):
    _, processor = parts
    shared = clip()
    encoded = [
        processor.encode([("human", "<video>\nWhich?"), ("gpt", answer)], shared)
        for answer in ("red", "green")
    ]
    batch = processor.collate(encoded)
    assert len(batch["pixel_values_videos"]) == 4
    assert batch["video_frames"].tolist() == [4]
    assert batch["video_order"].tolist() == [0, 0]
    assert len(batch["audio_values"]) == 1
    assert batch["audio_order"].tolist() == [0, 0]


def test_padding_goes_to_the_side_asked_for(parts):
    _, processor = parts
    rows = [
        processor.encode([("human", text), ("gpt", "red")], Clip())
        for text in ("Which?", "Which colour is shown?")
    ]
    for left in (False, True):
        batch = processor.collate(rows, left=left)
        short = batch["attention_mask"][0].tolist()
        assert short == sorted(short, reverse=not left)
        assert sum(short) == len(rows[0].input_ids)
        kept = batch["input_ids"][0][batch["attention_mask"][0] == 1]
        assert kept.tolist() == rows[0].input_ids


def test_audio_is_normalised_as_wav2vec2_expects(parts):
    _, processor = parts
    encoded = processor.encode(
        [("human", "<audio>\nWhich?"), ("gpt", "red")], Clip(audios=(waveform() * 3 + 0.2,))
    )
    normalised = processor.collate([encoded])["audio_values"][0].numpy()
    assert abs(normalised.mean()) < 1e-4
    assert abs(normalised.std() - 1) < 1e-3


def test_any_text_survives_the_tokenizer(parts):
    _, processor = parts
    text = "naïve 🎻 \t\n日本語 <b>"
    tokens = processor.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert processor.tokenizer.decode(tokens) == text


media = st.builds(
    Clip,
    videos=st.lists(
        st.builds(
            video,
            seed=st.integers(0, 3),
            frames=st.integers(1, 3),
            samples=st.none() | st.integers(2_000, 20_000),
        ),
        max_size=2,
    ).map(tuple),
    audios=st.lists(st.builds(waveform, samples=st.integers(2_000, 9_000)), max_size=2).map(tuple),
    images_nhwc=st.lists(st.builds(image, seed=st.integers(0, 3)), max_size=2).map(tuple),
)


@settings(max_examples=25, deadline=None)
@given(clips=st.lists(media, min_size=1, max_size=3))
def test_the_count_before_the_towers_is_what_the_model_takes(parts, clips):
    model, processor = parts
    turns = [("human", "Which colour is shown?"), ("gpt", "red")]
    counted = [processor.measure(turns, each).tokens for each in clips]
    batch = processor.collate([processor.encode(turns, each) for each in clips])
    assert batch["attention_mask"].sum(1).tolist() == counted
    output = model(**batch)
    assert np.isfinite(output.loss_sums.detach().numpy()).all()


@pytest.mark.parametrize(
    ("media", "message"),
    [
        ({"images_nhwc": (image()[..., 0],)}, r"shape \(32, 32\), must be \[height, width, 3\]"),
        (
            {"audios": (waveform()[None],)},
            r"audio of shape \(1, 16000\) does not fit the audio tower",
        ),
        ({"audios": (waveform() * float("nan"),)}, "16000 of 16000 audio samples are not finite"),
        (
            {"audios": (waveform(samples=0),)},
            r"audio of 0 samples is too short: one feature of the audio tower needs \d+",
        ),
        ({"videos": (dataclasses.replace(video(), frame_times_s=(0.5,)),)}, "1 times of 4 frames"),
    ],
)
def test_arrays_that_no_tower_takes_are_rejected_before_they_are_counted(parts, media, message):
    _, processor = parts
    with pytest.raises(ValueError, match=message):
        processor.measure([("human", "What?"), ("gpt", "red")], Clip(**media))


def test_empty_input_is_rejected_and_a_processor_has_a_repr(parts):
    _, processor = parts
    with pytest.raises(ValueError, match="a conversation of 0 turns"):
        processor.encode([], Clip())
    with pytest.raises(ValueError, match="a batch of 0 samples"):
        processor.collate([])
    _, blind = tiny_model(model__vision=None)
    assert "image_processor" in repr(processor)
    assert "image_processor" not in repr(blind)
