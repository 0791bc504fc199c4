"""Encoding of prompts, and greedy generation of replies in batches."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import TextStreamer

from llava_av.errors import UserError
from llava_av.media.clip import Clip
from llava_av.model import (
    Encoded,
    LlavaAvForConditionalGeneration,
    LlavaAvProcessor,
    SampleLengthError,
    UnsupportedModalityError,
)

__all__ = [
    "PromptError",
    "PromptLengthError",
    "PromptModalityError",
    "Replies",
    "encode_prompt",
    "generate_replies",
    "move_batch",
]


class PromptError(UserError):
    """A conversation that does not fit the model."""


class PromptLengthError(PromptError):
    """A conversation with more tokens than the model takes."""


class PromptModalityError(PromptError):
    """A conversation with media of a modality that the model does not take."""


@dataclass(frozen=True, kw_only=True)
class Replies:
    """Replies of one batch, with the numbers of their tokens."""

    texts: tuple[str, ...]
    """Reply to each prompt, without special tokens."""
    prompt_tokens: int
    """Tokens of all prompts, including media and without padding."""
    new_tokens: int
    """Tokens of all replies, without padding."""


def encode_prompt(
    processor: LlavaAvProcessor, turns: Sequence[tuple[str, str]], clip: Clip, *, max_new_tokens: int
) -> Encoded:
    """Encode a conversation for a reply, and check that the language model has positions for both.

    Args:
        processor: Processor of the model.
        turns: (`human` or `gpt`, text) in order; the last is from `human`.
        clip: Decoded media.
        max_new_tokens: Maximum tokens of the reply.

    Raises:
        PromptModalityError: The model does not take media of a modality.
        PromptLengthError: The conversation and the reply have more tokens than the model takes.
        PromptError: The conversation does not fit the model for another reason, such as too short audio.
    """
    try:
        prompt = processor.encode(turns, clip, reply=True)
    except ValueError as error:
        kinds = {UnsupportedModalityError: PromptModalityError, SampleLengthError: PromptLengthError}
        raise kinds.get(type(error), PromptError)(f"the question does not fit the model: {error}") from None
    tokens = len(prompt.input_ids)
    limit = getattr(processor.config.text_config, "max_position_embeddings", None)
    if limit is not None and tokens + max_new_tokens > limit:
        raise PromptLengthError(
            f"a conversation of {tokens} tokens and a reply of up to {max_new_tokens} do not fit the "
            f"language model, which has max_position_embeddings={limit}: ask a shorter question or start "
            "a new conversation"
        )
    return prompt


@torch.inference_mode()
def generate_replies(
    model: LlavaAvForConditionalGeneration,
    processor: LlavaAvProcessor,
    prompts: Sequence[Encoded],
    *,
    max_new_tokens: int,
    on_text: Callable[[str], None] | None = None,
) -> Replies:
    """Generate a reply to each prompt.

    Args:
        model: Model in eval mode, on its device.
        processor: Processor of the model.
        prompts: Prompts of `encode_prompt`, or of `processor.encode(…, reply=True)`.
        max_new_tokens: Maximum tokens of a reply.
        on_text: Function called with each piece of the reply as it is generated; requires a
            single prompt.
    """
    batch = move_batch(processor.collate(prompts, left=True), model.device)
    del batch["labels"]
    tokenizer = processor.tokenizer
    streamer = None if on_text is None else _CallbackStreamer(tokenizer, on_text)
    output = model.generate(**batch, max_new_tokens=max_new_tokens, do_sample=False, streamer=streamer)
    new = output[:, batch["input_ids"].shape[1] :]
    return Replies(
        texts=tuple(tokenizer.batch_decode(new, skip_special_tokens=True)),
        prompt_tokens=int(batch["attention_mask"].sum()),
        new_tokens=int((new != tokenizer.pad_token_id).sum()),
    )


def move_batch(batch: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """Return a collated batch on another device."""
    return {name: value.to(device) for name, value in batch.items()}


class _CallbackStreamer(TextStreamer):
    """Streamer that passes on the text of a reply in whole words as it is generated."""

    def __init__(self, tokenizer: Any, on_text: Callable[[str], None]) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._on_text = on_text

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        if text:
            self._on_text(text)
