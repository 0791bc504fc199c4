"""Settings of a model that is made of weights that exist, by the names that recipes and configs share."""

from collections.abc import Collection, Mapping
from typing import Any

import torch

from llava_av.documents import validate
from llava_av.model.configuration import LlavaAvConfig
from llava_av.model.loading.weight_files import ModelFilesError
from llava_av.model.modeling import LlavaAvForConditionalGeneration
from llava_av.recipe import MediaRecipe, ModelRecipe

__all__ = ["checked_settings", "fitting_config"]

_PARTS = {"base", "base_digest", "train", "vision", "audio", "language", "vocabulary_size"}
_MEDIA = {"frames_per_s", "max_frames", "max_audio_s"}
_WITH_OPTIONS = ("resampler", "vision_projector", "audio_downsampler", "audio_projector")


def checked_settings(given: Mapping[str, Any], *, fixed: Collection[str] = ()) -> dict[str, Any]:
    """Fields of a config by name; a part of another kind loses the options of the one before.

    Args:
        given: values by name.
        fixed: names that follow from the weights.

    Raises:
        ModelFilesError: a name that is unknown or fixed, or a value that is not allowed, by name.
    """
    known = sorted({*ModelRecipe.model_fields, *_MEDIA} - _PARTS - set(fixed))
    for name in given:
        if name not in known:
            raise ModelFilesError(f"there is no setting {name!r}: one of {', '.join(known)}")
    media = {name: value for name, value in given.items() if name in _MEDIA}
    parts = {name: value for name, value in given.items() if name not in _MEDIA}
    reading = validate(MediaRecipe, media, where="settings", error=ModelFilesError)
    model = validate(ModelRecipe, {"language": {}, **parts}, where="settings", error=ModelFilesError)
    checked = reading.model_dump(include=set(media)) | model.model_dump(include=set(parts))
    bare: dict[str, Any] = {f"{kind}_options": {} for kind in _WITH_OPTIONS if kind in checked}
    return bare | checked


def fitting_config(settings: Mapping[str, Any]) -> LlavaAvConfig:
    """The config of a model that can be built.

    Raises:
        ModelFilesError: parts that do not fit each other, by name.
    """
    config = LlavaAvConfig(**settings)
    try:
        with torch.device("meta"):
            LlavaAvForConditionalGeneration(config)
    except (ValueError, RuntimeError, TypeError, ArithmeticError) as error:
        raise ModelFilesError(f"the parts do not fit each other: {error}") from None
    return config
