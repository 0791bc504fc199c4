"""Parts of the model that a batch may leave without input, and the weights of each."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from llava_av.model.configuration import LlavaAvConfig

__all__ = ["PARTS", "part_of", "parts_with_input"]

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


def part_of(name: str) -> str:
    """Return the part of the weight with this name in the model: one of `PARTS`, or `language`."""
    return _PART_OF.get(name.split(".")[0], "language")


def parts_with_input(config: LlavaAvConfig, inputs: Mapping[str, Any]) -> frozenset[str]:
    """Return those of `PARTS` that compute something from a batch.

    Args:
        config: The model's.
        inputs: Arguments of the model's `forward`.
    """
    video, image = "pixel_values_videos" in inputs, "pixel_values" in inputs
    tiled = config.image_grid_pinpoints is not None
    used = {
        "vision": video or image,
        "resampler": video or (image and config.resample_images and not tiled),
        "newline": (video and config.video_newline != "none") or (image and tiled),
        "audio": "audio_values" in inputs,
    }
    return frozenset(name for name, is_used in used.items() if is_used)
