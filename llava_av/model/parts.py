"""Parts of the model: their weights, which of them a batch gives input to, and which are trained."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from llava_av.model.configuration import LlavaAvConfig
from llava_av.model.media_inputs import MediaInputs
from llava_av.model.modeling import LlavaAvForConditionalGeneration
from llava_av.model.vision.tower import freeze_unused

__all__ = ["PARTS", "part_of", "parts_with_input", "train_only"]

PARTS = ("vision", "resampler", "newline", "audio")
"""Parts that need media; the language model gets input from every batch."""
_PART_OF: Mapping[str, str] = MappingProxyType(
    {
        "vision_tower": "vision",
        "vision_projector": "vision",
        "resampler": "resampler",
        "fast_pool": "resampler",
        "newline": "newline",
        "audio_tower": "audio",
        "audio_downsampler": "audio",
        "audio_projector": "audio",
    }
)
_CONNECTORS = (
    *("resampler", "fast_pool", "vision_projector", "newline"),
    *("audio_downsampler", "audio_projector"),
)
_TRAINED_BY_GROUP: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "vision": ("vision_tower",),
        "audio": ("audio_tower",),
        "projectors": _CONNECTORS,
        "language": ("language_model",),
    }
)


def part_of(name: str) -> str:
    """Return the part of the weight with this name in the model: one of `PARTS`, or `language`."""
    return _PART_OF.get(name.split(".")[0], "language")


def parts_with_input(config: LlavaAvConfig, inputs: Mapping[str, Any]) -> frozenset[str]:
    """Return the parts among `PARTS` that compute something from a batch.

    Args:
        config: Config of the model.
        inputs: Arguments of the model's `forward`.
    """
    media = MediaInputs.from_arguments(inputs)
    has_video, has_image = media.pixel_values_videos is not None, media.pixel_values is not None
    tiled = config.image_grid_pinpoints is not None
    has_input = {
        "vision": has_video or has_image,
        "resampler": has_video or (has_image and config.resample_images and not tiled),
        "newline": (has_video and config.video_newline != "none") or (has_image and tiled),
        "audio": media.audio_values is not None,
    }
    return frozenset(name for name, is_used in has_input.items() if is_used)


def train_only(model: LlavaAvForConditionalGeneration, groups: Iterable[str]) -> None:
    """Freeze all weights outside of these groups, and those that no output depends on.

    Args:
        model: Any model.
        groups: Groups among `vision`, `audio`, `projectors` (all connectors) and `language`.
    """
    trained = {part for group in groups for part in _TRAINED_BY_GROUP[group]}
    for name, weight in model.named_parameters():
        if name.split(".")[0] not in trained:
            weight.requires_grad_(False)
    if model.config.has_vision:
        freeze_unused(model.vision_tower, model.config)
