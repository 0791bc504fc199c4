"""Model and processor from a folder, as they are or as the base of a training."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import GenerationConfig

from llava_av.model.adapters import ADAPTER_CONFIG, fresh_adapter_weight, load_adapter, set_trained_weights
from llava_av.model.configuration import LlavaAvConfig
from llava_av.model.files.deferred import deferred_weights, parameters_on_meta
from llava_av.model.files.folder_checks import require_folder, require_tokenizer, require_weights
from llava_av.model.files.reading import ModelFilesError, file_errors, read_pretrained, require_matching
from llava_av.model.modeling import LlavaAvForConditionalGeneration
from llava_av.model.processing import LlavaAvProcessor

if TYPE_CHECKING:
    from llava_av.recipe import Recipe

__all__ = ["base_config", "base_model", "deferred_model", "load_saved_model"]

_GENERATION = "generation_config.json"


def load_saved_model(
    folder: str | Path, base: Path | None = None, *, dtype: torch.dtype | None = None
) -> tuple[LlavaAvForConditionalGeneration, LlavaAvProcessor]:
    """Read a model in eval mode and its processor from a folder (config, safetensors, tokenizer).

    Args:
        folder: Folder of a whole model, or of an adapter.
        base: Folder of the base model of an adapter; None for a whole model.
        dtype: Type of the weights; None for that of the model's training.

    Raises:
        ModelFilesError: The folder is incomplete or brings code, or an adapter does not fit its base model.
    """
    folder = Path(folder)
    if base is not None:
        model: Any = _adapted_model(folder, base, dtype)
    elif (folder / ADAPTER_CONFIG).is_file():
        raise ModelFilesError(
            f"{folder} has an adapter without its base model: merge both with `llava-av model export "
            "--merge-adapter`"
        )
    else:
        _require_complete(folder)
        require_matching(LlavaAvForConditionalGeneration, read_pretrained(LlavaAvConfig, folder), folder)
        model = read_pretrained(LlavaAvForConditionalGeneration, folder, dtype=dtype or "auto")
    model.eval()
    with file_errors(f"the model of {folder}"):
        return model, LlavaAvProcessor.from_pretrained(folder)


def _adapted_model(folder: Path, base: Path, dtype: torch.dtype | None) -> LlavaAvForConditionalGeneration:
    """Read the base model, with the settings of the adapter's training, and put the adapter on it."""
    require_folder(folder)
    require_tokenizer(folder)
    _require_complete(base)
    config: LlavaAvConfig = read_pretrained(LlavaAvConfig, folder)
    require_matching(LlavaAvForConditionalGeneration, config, base)
    chosen = dtype or config.dtype or torch.float32
    model: LlavaAvForConditionalGeneration = read_pretrained(
        LlavaAvForConditionalGeneration, base, config=config, dtype=chosen
    )
    load_adapter(model, folder)
    return model


def base_model(
    recipe: Recipe, folder: Path, *, defer: bool = False
) -> tuple[LlavaAvForConditionalGeneration, LlavaAvProcessor]:
    """Read the model that a training starts from in float32, with media and limits of the recipe.

    Args:
        recipe: Recipe of the training.
        folder: Folder of the base model.
        defer: True to leave the weights to the engine, which reads them from `deferred` of the model.

    Raises:
        ModelFilesError: The folder is incomplete or brings code, or the recipe's frame size or sample rate
            differs from the base model's; the message names both.
    """
    _require_complete(folder)
    config = base_config(recipe, folder)
    require_matching(LlavaAvForConditionalGeneration, config, folder)
    model = deferred_model(recipe, config, folder) if defer else None
    if model is None:
        model = read_pretrained(LlavaAvForConditionalGeneration, folder, config=config, dtype=torch.float32)
        set_trained_weights(model, recipe)
    with file_errors(f"the base model of {folder}"):
        saved = LlavaAvProcessor.from_pretrained(folder)
    parts = {name: getattr(saved, name, None) for name in ("image_processor", "video_processor")}
    return model, LlavaAvProcessor(saved.tokenizer, config, **parts)


def deferred_model(
    recipe: Recipe, config: LlavaAvConfig, folder: Path
) -> LlavaAvForConditionalGeneration | None:
    """Return a model on the meta device, whose weights an engine reads; None if its files have other names.

    Args:
        recipe: Recipe of the training.
        config: Config of the model.
        folder: Folder of its weights.
    """
    with parameters_on_meta():
        build: Any = LlavaAvForConditionalGeneration._from_config
        model: LlavaAvForConditionalGeneration = build(copy.deepcopy(config), dtype=torch.float32)
    model.deferred = deferred_weights(folder, model, partial(fresh_adapter_weight, seed=recipe.seed))
    if model.deferred is None:
        return None
    if (folder / _GENERATION).is_file():
        model.generation_config = read_pretrained(GenerationConfig, folder)
    with torch.device("meta"):
        set_trained_weights(model, recipe)
    return model


def base_config(recipe: Recipe, folder: Path) -> LlavaAvConfig:
    """Read the config of the model that a training starts from, with media and limits of the recipe.

    Raises:
        ModelFilesError: The config cannot be read, or the recipe's frame size or sample rate differs from the
            base model's; the message names both.
    """
    config: LlavaAvConfig = read_pretrained(LlavaAvConfig, folder)
    for name in ("frame_size", "sample_rate_hz"):
        wanted, own = getattr(recipe.media, name), getattr(config, name)
        if wanted != own:
            raise ModelFilesError(
                f"recipe {recipe.name}: media.{name}={wanted} does not fit the base model, must be {own}: "
                f"set media.{name}={own} in the recipe or with --set"
            )
    settings = recipe.media.model_dump(exclude={"decoder"}) | recipe.model.model_dump(
        include={"max_tokens", "over_limit"}
    )
    for name, value in settings.items():
        setattr(config, name, value)
    return config


def _require_complete(folder: Path) -> None:
    require_folder(folder)
    require_weights(folder)
    require_tokenizer(folder)
