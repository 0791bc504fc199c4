"""Settings of a converted model, by the names that recipes and configs share."""

from collections.abc import Collection, Mapping

import torch

from llava_av.documents import validate
from llava_av.model.configuration import LlavaAvConfig
from llava_av.model.files.reading import ModelFilesError
from llava_av.model.modeling import LlavaAvForConditionalGeneration
from llava_av.recipe import MediaRecipe, ModelRecipe

__all__ = ["build_config", "check_settings"]

# Fields of a model's recipe that follow from the weights.
_FROM_WEIGHTS = {"base", "base_digest", "vision", "audio", "language", "vocabulary_size"}
# Fields of a model's recipe that are no settings of a model.
_OF_TRAINING = {"trainable_parts", "adapter"}
_MEDIA = {"frames_per_s", "max_frames", "max_audio_s"}
_WITH_OPTIONS = ("resampler", "vision_projector", "audio_downsampler", "audio_projector")


def check_settings(given: Mapping[str, object], *, fixed: Collection[str] = ()) -> dict[str, object]:
    """Return fields of a config by name; a connector of another kind loses the options of the previous one.

    Args:
        given: Values by name.
        fixed: Names that follow from the weights.

    Raises:
        ModelFilesError: A name is unknown or fixed, or a value is not allowed; names it.
    """
    known = sorted({*ModelRecipe.model_fields, *_MEDIA} - _FROM_WEIGHTS - _OF_TRAINING - set(fixed))
    for name in given:
        if name not in known:
            raise ModelFilesError(f"there is no setting {name!r}: one of {', '.join(known)}")
    media = {name: value for name, value in given.items() if name in _MEDIA}
    parts = {name: value for name, value in given.items() if name not in _MEDIA}
    reading = validate(MediaRecipe, media, where="settings", error=ModelFilesError)
    model = validate(ModelRecipe, {"language": {}, **parts}, where="settings", error=ModelFilesError)
    checked = reading.model_dump(include=set(media)) | model.model_dump(include=set(parts))
    bare: dict[str, object] = {f"{kind}_options": {} for kind in _WITH_OPTIONS if kind in checked}
    return bare | checked


def build_config(settings: Mapping[str, object]) -> LlavaAvConfig:
    """Return the config, and check that its model can be built.

    Raises:
        ModelFilesError: Parts do not fit each other; names them.
    """
    config = LlavaAvConfig.from_fields(settings)
    try:
        with torch.device("meta"):
            LlavaAvForConditionalGeneration(config)
    except (ValueError, RuntimeError, TypeError, ArithmeticError) as error:
        raise ModelFilesError(f"the parts do not fit each other: {error}") from None
    return config
