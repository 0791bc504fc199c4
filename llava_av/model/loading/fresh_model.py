"""Fresh model and processor from a recipe and the texts of its training."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from transformers import LlavaOnevisionVideoProcessor, SiglipImageProcessor

from llava_av.model.configuration import LlavaAvConfig
from llava_av.model.modeling import LlavaAvForConditionalGeneration
from llava_av.model.parts import train_only
from llava_av.model.processing import LlavaAvProcessor
from llava_av.model.sequence.tokenizer import PLACEHOLDERS, train_tokenizer
from llava_av.recipe import MediaRecipe, ModelRecipe, Recipe

__all__ = ["config_from_recipe", "fresh_model"]

# Fields of a model's recipe that are not fields of its config.
_NOT_IN_CONFIG = ("base", "base_digest", "trainable_parts", "vision", "audio", "language", "vocabulary_size")
_HALF = (0.5, 0.5, 0.5)


def fresh_model(
    recipe: Recipe, texts: Iterable[str]
) -> tuple[LlavaAvForConditionalGeneration, LlavaAvProcessor]:
    """Build tokenizer and weights; equal recipes and texts give equal results.

    Raises:
        ValueError: Parts do not fit each other; names them.
    """
    tokenizer = train_tokenizer(texts, recipe.model.vocabulary_size)
    token_ids: dict[str, Any] = {
        f"{modality}_token_id": tokenizer.convert_tokens_to_ids(token)
        for modality, token in PLACEHOLDERS.items()
    }
    token_ids |= {
        "vocab_size": len(tokenizer),
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = config_from_recipe(recipe.model, recipe.media, token_ids)
    torch.manual_seed(recipe.seed)
    model = LlavaAvForConditionalGeneration(config)
    train_only(model, recipe.model.trainable_parts)
    return model, LlavaAvProcessor(tokenizer, config, **_processors(config))


def config_from_recipe(model: ModelRecipe, media: MediaRecipe, token_ids: Mapping[str, Any]) -> LlavaAvConfig:
    """Build the config of a fresh model.

    Args:
        model: Parts of the model.
        media: Decoding of clips.
        token_ids: IDs by name: `image_token_id`, `video_token_id`, `audio_token_id`, `vocab_size`,
            `eos_token_id`, `pad_token_id`.

    Raises:
        ValueError: Parts do not fit each other; names them.
    """
    ids: dict[str, Any] = dict(token_ids)
    text: dict[str, Any] = dict(model.language or {}, vocab_size=ids.pop("vocab_size"))
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
    settings = model.model_dump(exclude=set(_NOT_IN_CONFIG)) | media.model_dump(exclude={"decoder"})
    return LlavaAvConfig(**parts, **settings, **ids, audio_token_times="stride")


def _processors(config: LlavaAvConfig) -> dict[str, Any]:
    """Return transformers' processors for images and frames that fill the tower's square."""
    if not config.has_vision:
        return {}
    square = {"height": config.frame_size, "width": config.frame_size}
    shared: dict[str, Any] = {"size": square, "image_mean": _HALF, "image_std": _HALF}
    return {
        "image_processor": SiglipImageProcessor(**shared),
        "video_processor": LlavaOnevisionVideoProcessor(**shared, do_sample_frames=False),
    }
