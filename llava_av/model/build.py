"""A fresh model and its processor from a recipe and the text it will be trained on."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from transformers import LlavaOnevisionVideoProcessor, SiglipImageProcessor

from llava_av.model.config import LlavaAvConfig
from llava_av.model.modeling import LlavaAvForConditionalGeneration
from llava_av.model.processor import LlavaAvProcessor
from llava_av.model.tokenizer import PLACEHOLDERS, train_tokenizer
from llava_av.recipe import MediaRecipe, ModelRecipe, Recipe

__all__ = ["config_from_recipe", "fresh_model", "load_model"]

_PARTS = ("vision", "audio", "language", "vocabulary_size")
_HALF = (0.5, 0.5, 0.5)


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
    model = LlavaAvForConditionalGeneration(config)
    return model, LlavaAvProcessor(tokenizer, config, **_picture_processors(config))


def config_from_recipe(model: ModelRecipe, media: MediaRecipe, special: dict[str, Any]) -> LlavaAvConfig:
    """Builds the config of a fresh model.

    Args:
        model: the parts.
        media: how clips become arrays.
        special: ids by name: `image_token_id`, `video_token_id`, `audio_token_id`, `vocab_size`,
            `eos_token_id`, `pad_token_id`.

    Raises:
        ValueError: parts that do not fit each other, by name.
    """
    ids: dict[str, Any] = dict(special)
    text: dict[str, Any] = dict(model.language, vocab_size=ids.pop("vocab_size"))
    text |= {name: ids.pop(name) for name in ("eos_token_id", "pad_token_id")} | {"bos_token_id": None}
    if model.vision is None:
        ids |= {"image_token_id": None, "video_token_id": None}
    if model.audio is None:
        ids["audio_token_id"] = None
    parts: dict[str, Any] = {
        "vision_config": None if model.vision is None else dict(model.vision, image_size=media.frame_size),
        "audio_config": None if model.audio is None else dict(model.audio),
        "text_config": text,
    }
    settings = model.model_dump(exclude=set(_PARTS)) | media.model_dump(exclude={"decoder"})
    return LlavaAvConfig(**parts, **settings, **ids)


def load_model(folder: str | Path) -> tuple[LlavaAvForConditionalGeneration, LlavaAvProcessor]:
    """Reads a model's folder (config, safetensors, tokenizer); the model is in eval mode."""
    model = LlavaAvForConditionalGeneration.from_pretrained(folder)
    model.eval()  # type: ignore[no-untyped-call]
    return model, LlavaAvProcessor.from_pretrained(folder)


def _picture_processors(config: LlavaAvConfig) -> dict[str, Any]:
    """Transformers' processors for pictures that fill the tower's square."""
    if config.vision_config is None:
        return {}
    square = {"height": config.frame_size, "width": config.frame_size}
    shared: dict[str, Any] = {"size": square, "image_mean": _HALF, "image_std": _HALF}
    return {
        "image_processor": SiglipImageProcessor(**shared),
        "video_processor": LlavaOnevisionVideoProcessor(**shared, do_sample_frames=False),
    }
