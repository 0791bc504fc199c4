"""Parts of the model: their weights, which of them a batch gives input to, and which are trained."""

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any

from torch import nn

from llava_av.model.configuration import LlavaAvConfig
from llava_av.model.media_inputs import MediaInputs
from llava_av.model.modeling import LlavaAvForConditionalGeneration
from llava_av.model.vision.tower import freeze_unused
from llava_av.vocabulary import PartName

__all__ = ["PARTS", "part_of", "parts_with_input", "recompute_activations", "train_only", "trainable_parts"]

PARTS = ("vision", "resampler", "newline", "audio")
"""Parts that need media; the language model gets input from every batch."""
_HEADS = ("get_input_embeddings", "get_output_embeddings")
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
_TRAINABLE_PART_OF: Mapping[str, PartName] = MappingProxyType(
    {
        "vision_tower": "vision_tower",
        "vision_projector": "vision_connector",
        "resampler": "vision_connector",
        "fast_pool": "vision_connector",
        "newline": "vision_connector",
        "audio_tower": "audio_tower",
        "audio_downsampler": "audio_connector",
        "audio_projector": "audio_connector",
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


def trainable_parts(model: nn.Module) -> dict[str, PartName]:
    """Return the part of each weight of the model by name; weights that are tied have one name."""
    heads = [getattr(model, name)() for name in _HEADS if hasattr(model, name)]
    embeddings = {id(weight) for head in heads if head is not None for weight in head.parameters()}
    return {
        name: "embeddings"
        if id(weight) in embeddings
        else _TRAINABLE_PART_OF.get(name.split(".")[0], "language")
        for name, weight in model.named_parameters()
    }


def train_only(model: LlavaAvForConditionalGeneration, parts: Collection[PartName]) -> None:
    """Freeze all weights outside of these parts, and those that no output depends on."""
    by_name = trainable_parts(model)
    for name, weight in model.named_parameters():
        if by_name[name] not in parts:
            weight.requires_grad_(False)
    if model.config.has_vision:
        freeze_unused(model.vision_tower, model.config)


def recompute_activations(model: LlavaAvForConditionalGeneration, parts: Collection[str]) -> None:
    """Recompute the activations of these parts in the backward pass instead of keeping them.

    Args:
        model: Any model; parts that it lacks are left out.
        parts: Parts among `vision_tower`, `audio_tower` and `language`.
    """
    found = {
        "vision_tower": getattr(model, "vision_tower", None),
        "audio_tower": getattr(getattr(model, "audio_tower", None), "model", None),
        "language": model.language_model,
    }
    for part in parts:
        module: Any = found[part]
        if module is not None:
            # transformers 5.17 has only the second name, which is deprecated later.
            name = "activation_checkpointing_enable"
            enable = getattr(module, name, None) or module.gradient_checkpointing_enable
            enable({"use_reentrant": False})
