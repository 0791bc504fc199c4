"""Hugging Face vision towers behind one function: pixels in, patches out."""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from llava_av.model.configuration import LlavaAvConfig

__all__ = ["freeze_unused", "leading_tokens", "patch_features", "patch_width"]

_LEADING: Mapping[str, int] = MappingProxyType(
    {
        "clip_vision_model": 1,
        "siglip_vision_model": 0,
        "siglip2_vision_model": 0,
        "dinov2": 1,
        "dinov2_with_registers": 1,
    }
)
_LAYER = re.compile(r"\blayers?\.(\d+)\.")
# CLIP applies its last norm to the CLS token only; the others apply it to every patch.
_LAST_NORM = re.compile(r"^(vision_model\.)?(post_layernorm|layernorm)\.")
# DINOv2's masked training and SigLIP's pooling.
_NEVER_USED = re.compile(r"mask_token|^(vision_model\.)?head\.")
# These take a flag for inputs of another size than in training; DINOv2 always interpolates.
_INTERPOLATE_BY_FLAG = ("clip_vision_model", "siglip_vision_model")


def leading_tokens(vision: Any) -> int:
    """Return the number of tokens that a tower puts before its patches (CLS, registers).

    Args:
        vision: Hugging Face config of the tower.

    Raises:
        ValueError: The tower is unknown; names it.
    """
    if vision.model_type not in _LEADING:
        raise ValueError(f"unknown vision tower {vision.model_type!r}: one of {', '.join(_LEADING)}")
    registers = vision.num_register_tokens if vision.model_type == "dinov2_with_registers" else 0
    return _LEADING[vision.model_type] + int(registers)


def patch_width(config: LlavaAvConfig) -> int:
    """Return the features of a patch, concatenated over the chosen layers."""
    layer = config.vision_feature_layer
    return int(config.vision_config.hidden_size) * (len(layer) if isinstance(layer, list) else 1)


def patch_features(tower: nn.Module, pixels: Tensor, config: LlavaAvConfig) -> Tensor:
    """Run the tower on tiles and frames.

    Args:
        tower: Hugging Face model of `config.vision_config`.
        pixels: `[n, 3, frame_size, frame_size]`, normalised.
        config: Config of the model; selects the layers and the leading tokens.

    Returns:
        `[n, leading + side*side, patch_width(config)]`; `leading` is 0 with the strategy `default`.

    Raises:
        ValueError: The pixels differ in size from the config; names both sizes.
    """
    size = config.frame_size
    if pixels.shape[1:] != (3, size, size):
        raise ValueError(f"pixels have shape {list(pixels.shape)}, must be [n, 3, {size}, {size}]")
    layer = config.vision_feature_layer
    options: dict[str, int | list[int]] = {}
    if _must_interpolate(config):
        options["interpolate_pos_encoding"] = True
    if layer is not None:
        options["output_hidden_states"] = layer
    output = tower(**_tower_inputs(pixels, config), **options)
    if layer is None:
        chosen = output.last_hidden_state
    elif isinstance(layer, int):
        chosen = output.hidden_states[layer]
    else:
        chosen = torch.cat([output.hidden_states[index] for index in layer], dim=-1)
    patches: Tensor = chosen
    if config.vision_feature_select_strategy == "default":
        patches = patches[:, leading_tokens(config.vision_config) :]
    return patches


def freeze_unused(tower: nn.Module, config: LlavaAvConfig) -> None:
    """Freeze weights behind the chosen layers: distributed training would wait for their gradients."""
    layers = config.vision_config.num_hidden_layers
    chosen = config.vision_feature_layer
    indices = [-1] if chosen is None else [chosen] if isinstance(chosen, int) else chosen
    used = max(index if index >= 0 else layers + 1 + index for index in indices)
    for name, weight in tower.named_parameters():
        layer = _LAYER.search(name)
        behind = layer is not None and int(layer[1]) >= used
        last_norm = _LAST_NORM.search(name) is not None
        unread = last_norm and (chosen is not None or config.vision_config.model_type == "clip_vision_model")
        if behind or unread or _NEVER_USED.search(name):
            weight.requires_grad_(False)


def _must_interpolate(config: LlavaAvConfig) -> bool:
    """Check whether the tower has to be told that its position embeddings are for images of another size."""
    vision = config.vision_config
    resized = getattr(vision, "image_size", config.frame_size) != config.frame_size
    return resized and vision.model_type in _INTERPOLATE_BY_FLAG


def _tower_inputs(pixels: Tensor, config: LlavaAvConfig) -> dict[str, Tensor]:
    vision = config.vision_config
    if vision.model_type == "siglip2_vision_model":
        return _flat_patches(pixels, vision.patch_size, config.patches_per_side)
    return {"pixel_values": pixels}


def _flat_patches(pixels: Tensor, patch: int, side: int) -> dict[str, Tensor]:
    """Return the input of SigLIP 2 (NaFlex): patches as rows of pixels, and the shape of the grid."""
    count = len(pixels)
    grid = pixels.view(count, 3, side, patch, side, patch).permute(0, 2, 4, 3, 5, 1)
    return {
        "pixel_values": grid.reshape(count, side * side, -1),
        "pixel_attention_mask": pixels.new_ones(count, side * side, dtype=torch.long),
        # transformers reads the shapes: from a GPU, that would wait for it.
        "spatial_shapes": torch.tensor([[side, side]] * count),
    }
