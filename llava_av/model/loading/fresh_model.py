"""Fresh model and processor from a recipe and the texts of its training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import torch
from transformers import PreTrainedTokenizerBase

from llava_av.model.configuration import LlavaAvConfig
from llava_av.model.media_processors import MediaProcessors, square_processors
from llava_av.model.modeling import LlavaAvForConditionalGeneration
from llava_av.model.parts import train_only
from llava_av.model.processing import LlavaAvProcessor
from llava_av.model.sequence.tokenizer import PLACEHOLDERS, train_tokenizer

if TYPE_CHECKING:
    from llava_av.recipe import MediaRecipe, ModelRecipe, Recipe

__all__ = ["config_from_recipe", "fresh_model", "fresh_processor"]

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
    processor = fresh_processor(recipe, texts)
    torch.manual_seed(recipe.seed)
    model = LlavaAvForConditionalGeneration(processor.config)
    train_only(model, recipe.model.trainable_parts)
    return model, processor


def fresh_processor(recipe: Recipe, texts: Iterable[str]) -> LlavaAvProcessor:
    """Build the tokenizer of a fresh model, and its processor with the config.

    Raises:
        ValueError: Parts do not fit each other; names them.
    """
    tokenizer = train_tokenizer(texts, recipe.model.vocabulary_size)
    config = config_from_recipe(recipe.model, recipe.media, _token_ids(tokenizer))
    processors = _processors(config)
    return LlavaAvProcessor(tokenizer, config, processors.image, processors.video)


def _token_ids(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    vocabulary = tokenizer.get_vocab()
    placeholders = {f"{modality}_token_id": vocabulary[token] for modality, token in PLACEHOLDERS.items()}
    return placeholders | {
        "vocab_size": len(tokenizer),
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def config_from_recipe(model: ModelRecipe, media: MediaRecipe, token_ids: Mapping[str, int]) -> LlavaAvConfig:
    """Build the config of a fresh model.

    Args:
        model: Parts of the model.
        media: Decoding of clips.
        token_ids: IDs by name: `image_token_id`, `video_token_id`, `audio_token_id`, `vocab_size`,
            `eos_token_id`, `pad_token_id`.

    Raises:
        ValueError: Parts do not fit each other; names them.
    """
    ids = {name: token_ids[name] for name in ("vocab_size", "eos_token_id", "pad_token_id")}
    vision, audio = model.vision, model.audio
    return LlavaAvConfig.from_fields(
        {
            **model.model_dump(exclude=set(_NOT_IN_CONFIG)),
            **media.model_dump(exclude={"decoder"}),
            "vision_config": None if vision is None else {**vision, "image_size": media.frame_size},
            "audio_config": None if audio is None else dict(audio),
            "text_config": {**(model.language or {}), **ids, "bos_token_id": None},
            "image_token_id": None if vision is None else token_ids["image_token_id"],
            "video_token_id": None if vision is None else token_ids["video_token_id"],
            "audio_token_id": None if audio is None else token_ids["audio_token_id"],
            "audio_token_times": "stride",
        }
    )


def _processors(config: LlavaAvConfig) -> MediaProcessors:
    if not config.has_vision:
        return MediaProcessors()
    return square_processors(config.frame_size, mean=_HALF, std=_HALF)
