"""Replies that chat and evaluation share."""

import pytest
import torch

from llava_av.inference.generation import (
    PromptError,
    PromptLengthError,
    PromptModalityError,
    encode_prompt,
    generate_replies,
)
from llava_av.media.clip import Clip
from tests.model_samples import clip, tiny_model, waveform

QUESTIONS = ("Which colour is shown?", "What?")


@pytest.fixture(scope="module")
def parts():
    return tiny_model()


def prompts_of(processor):
    """Return prompts of several lengths, with and without media."""
    given = zip(QUESTIONS, (clip(0), Clip()), strict=True)
    return [encode_prompt(processor, [("human", text)], media, max_new_tokens=4) for text, media in given]


def test_replies_and_token_counts_are_those_of_generate_for_each_prompt_alone(parts):
    model, processor = parts
    prompts = prompts_of(processor)
    replies = generate_replies(model, processor, prompts, max_new_tokens=4)
    for prompt, text in zip(prompts, replies.texts, strict=True):
        batch = processor.collate([prompt])
        del batch["labels"]
        with torch.no_grad():
            output = model.generate(**batch, max_new_tokens=4, do_sample=False)
        new = output[0, len(prompt.input_ids) :]
        assert processor.tokenizer.decode(new, skip_special_tokens=True) == text
    assert replies.prompt_tokens == sum(len(prompt.input_ids) for prompt in prompts)
    assert len(prompts) <= replies.new_tokens <= 4 * len(prompts)


def test_the_pieces_of_a_reply_are_its_text(parts):
    model, processor = parts
    pieces: list[str] = []
    [prompt, _] = prompts_of(processor)
    replies = generate_replies(model, processor, [prompt], max_new_tokens=4, on_text=pieces.append)
    assert "".join(pieces) == replies.texts[0]


def test_a_prompt_and_its_reply_fit_the_positions_exactly_or_are_rejected(parts):
    _, processor = parts
    turns = [("human", QUESTIONS[0])]
    limit = processor.config.text_config.max_position_embeddings
    room = limit - len(encode_prompt(processor, turns, Clip(), max_new_tokens=1).input_ids)
    assert encode_prompt(processor, turns, Clip(), max_new_tokens=room)
    with pytest.raises(
        PromptLengthError, match=rf"reply of up to {room + 1} .*max_position_embeddings={limit}"
    ):
        encode_prompt(processor, turns, Clip(), max_new_tokens=room + 1)


def test_too_short_audio_is_not_a_prompt_length_error(parts):
    _, processor = parts
    with pytest.raises(PromptError, match="is too short") as refused:
        encode_prompt(processor, [("human", "What?")], Clip(audios=(waveform(samples=5),)), max_new_tokens=1)
    assert type(refused.value) is PromptError


def test_media_that_the_model_does_not_take_are_one_line():
    _, processor = tiny_model(model__vision=None)
    with pytest.raises(PromptModalityError, match="1 image files do not fit the model"):
        encode_prompt(
            processor,
            [("human", "What?")],
            Clip(images_nhwc=(clip(0).videos[0].frames_nhwc[0],)),
            max_new_tokens=1,
        )
