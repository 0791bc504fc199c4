"""A fresh model and its processor from a recipe and the text it will be trained on."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from llava_av.model.config import config_from_recipe
from llava_av.model.modeling import LlavaAvForConditionalGeneration
from llava_av.model.processor import LlavaAvProcessor
from llava_av.model.tokenizer import PLACEHOLDERS, train_tokenizer
from llava_av.recipe import Recipe

__all__ = ["fresh_model", "load_model"]


def fresh_model(
    recipe: Recipe, texts: Iterable[str]
) -> tuple[LlavaAvForConditionalGeneration, LlavaAvProcessor]:
    """Builds tokenizer and weights; the same recipe and texts give the same of both.

    Raises:
        ValueError: parts that do not fit each other, by name.
    """
    tokenizer = train_tokenizer(texts, recipe.model.vocabulary_size)
    special: dict[str, Any] = {
        f"{kind}_token_id": tokenizer.convert_tokens_to_ids(token) for kind, token in PLACEHOLDERS.items()
    }
    special |= {
        "vocab_size": len(tokenizer),
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = config_from_recipe(recipe.model, recipe.media, special)
    torch.manual_seed(recipe.seed)
    return LlavaAvForConditionalGeneration(config), LlavaAvProcessor(tokenizer, config)


def load_model(folder: str | Path) -> tuple[LlavaAvForConditionalGeneration, LlavaAvProcessor]:
    """Reads a model's folder (config, safetensors, tokenizer); the model is in eval mode."""
    model = LlavaAvForConditionalGeneration.from_pretrained(folder)
    model.eval()  # type: ignore[no-untyped-call]
    return model, LlavaAvProcessor.from_pretrained(folder)
