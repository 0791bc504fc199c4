"""Model and processor from a folder, as they are or as the base of a training."""

from pathlib import Path

import torch

from llava_av.model.configuration import LlavaAvConfig
from llava_av.model.files.folder_checks import require_folder, require_tokenizer, require_weights
from llava_av.model.files.reading import ModelFilesError, file_errors, read_pretrained, require_matching
from llava_av.model.modeling import LlavaAvForConditionalGeneration
from llava_av.model.parts import train_only
from llava_av.model.processing import LlavaAvProcessor
from llava_av.recipe import Recipe

__all__ = ["base_config", "base_model", "load_saved_model"]


def load_saved_model(folder: str | Path) -> tuple[LlavaAvForConditionalGeneration, LlavaAvProcessor]:
    """Read a model in eval mode and its processor from a folder (config, safetensors, tokenizer).

    Raises:
        ModelFilesError: The folder is incomplete or brings code.
    """
    _require_complete(Path(folder))
    require_matching(LlavaAvForConditionalGeneration, read_pretrained(LlavaAvConfig, folder), folder)
    model = read_pretrained(LlavaAvForConditionalGeneration, folder)
    model.eval()
    with file_errors(f"the model of {folder}"):
        return model, LlavaAvProcessor.from_pretrained(folder)


def base_model(recipe: Recipe, folder: Path) -> tuple[LlavaAvForConditionalGeneration, LlavaAvProcessor]:
    """Read the model that a training starts from in float32, with media and limits of the recipe.

    Raises:
        ModelFilesError: The folder is incomplete or brings code, or the recipe's frame size or sample rate
            differs from the base model's; the message names both.
    """
    _require_complete(folder)
    config = base_config(recipe, folder)
    require_matching(LlavaAvForConditionalGeneration, config, folder)
    model = read_pretrained(LlavaAvForConditionalGeneration, folder, config=config, dtype=torch.float32)
    train_only(model, recipe.model.trainable_parts)
    with file_errors(f"the base model of {folder}"):
        saved = LlavaAvProcessor.from_pretrained(folder)
    parts = {name: getattr(saved, name, None) for name in ("image_processor", "video_processor")}
    return model, LlavaAvProcessor(saved.tokenizer, config, **parts)


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
