"""A fresh model and its processor from a recipe and the text it will be trained on."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from transformers import LlavaOnevisionVideoProcessor, SiglipImageProcessor

from llava_av.model.configuration import LlavaAvConfig
from llava_av.model.loading.model_folder import require_folder, require_tokenizer, require_weights
from llava_av.model.loading.weight_files import pretrained, reading_files, require_matching
from llava_av.model.modeling import LlavaAvForConditionalGeneration
from llava_av.model.processing import LlavaAvProcessor
from llava_av.model.sequence.tokenizer import PLACEHOLDERS, train_tokenizer
from llava_av.model.vision.tower import freeze_unused
from llava_av.recipe import MediaRecipe, ModelRecipe, Recipe

__all__ = ["base_model", "config_from_recipe", "fresh_model", "load_model", "train_only"]

_PARTS = ("base", "base_digest", "train", "vision", "audio", "language", "vocabulary_size")
_JOINTS = ("resampler", "fast_pool", "vision_projector", "newline", "audio_downsampler", "audio_projector")
_GROUPS = {
    "vision": ("vision_tower",),
    "audio": ("audio_tower",),
    "projectors": _JOINTS,
    "language": ("language_model",),
}
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
    train_only(model, recipe.model.train)
    return model, LlavaAvProcessor(tokenizer, config, **_picture_processors(config))


def base_model(recipe: Recipe, folder: Path) -> tuple[LlavaAvForConditionalGeneration, LlavaAvProcessor]:
    """Reads the model that training starts from, in float32, and keeps its media as the recipe says.

    Raises:
        ValueError: pictures or sound of another size or rate than the base model takes, with both.
        ModelFilesError: a folder that is not whole, or brings code.
    """
    _require_own(folder)
    config = pretrained(LlavaAvConfig, folder)
    for name in ("frame_size", "sample_rate_hz"):
        wanted, own = getattr(recipe.media, name), getattr(config, name)
        if wanted != own:
            raise ValueError(f"media.{name}={wanted} of the recipe, but {own} of the base model")
    settings = recipe.media.model_dump(exclude={"decoder"}) | recipe.model.model_dump(
        include={"max_tokens", "over_limit"}
    )
    for name, value in settings.items():
        setattr(config, name, value)
    require_matching(LlavaAvForConditionalGeneration, config, folder)
    model = pretrained(LlavaAvForConditionalGeneration, folder, config=config, dtype=torch.float32)
    train_only(model, recipe.model.train)
    with reading_files(f"the base model of {folder}"):
        saved = LlavaAvProcessor.from_pretrained(folder)
    parts = {name: getattr(saved, name, None) for name in ("image_processor", "video_processor")}
    return model, LlavaAvProcessor(saved.tokenizer, config, **parts)


def train_only(model: LlavaAvForConditionalGeneration, groups: Iterable[str]) -> None:
    """Lets these groups of weights be trained, and no other; what nothing is computed from never is.

    Args:
        model: any.
        groups: of `vision`, `audio`, `projectors` and `language`.
    """
    trained = {part for group in groups for part in _GROUPS[group]}
    for name, weight in model.named_parameters():
        if name.split(".")[0] not in trained:
            weight.requires_grad_(False)
    if model.config.vision_config is not None:
        freeze_unused(model.vision_tower, model.config)


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
    settings = model.model_dump(exclude=set(_PARTS)) | media.model_dump(exclude={"decoder"})
    return LlavaAvConfig(**parts, **settings, **ids, audio_token_times="stride")


def load_model(folder: str | Path) -> tuple[LlavaAvForConditionalGeneration, LlavaAvProcessor]:
    """Read a model's folder (config, safetensors, tokenizer); the model is in eval mode.

    Raises:
        ModelFilesError: the folder is not whole, or brings code.
    """
    _require_own(Path(folder))
    require_matching(LlavaAvForConditionalGeneration, pretrained(LlavaAvConfig, folder), folder)
    model = pretrained(LlavaAvForConditionalGeneration, folder)
    model.eval()
    with reading_files(f"the model of {folder}"):
        return model, LlavaAvProcessor.from_pretrained(folder)


def _require_own(folder: Path) -> None:
    require_folder(folder)
    require_weights(folder)
    require_tokenizer(folder)


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
