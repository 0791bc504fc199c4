"""Vision towers of Hugging Face behind one call: pixels in, patches out."""

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
# CLIP norms its CLS token alone after the last layer; the others norm every patch.
_LAST_NORM = re.compile(r"^(vision_model\.)?(post_layernorm|layernorm)\.")
# Of DINOv2's masked training, and of SigLIP's pooling.
_NEVER = re.compile(r"mask_token|^(vision_model\.)?head\.")
# These two take a flag for pictures of another size than they were trained on; DINOv2 always interpolates.
_INTERPOLATE_BY_FLAG = ("clip_vision_model", "siglip_vision_model")


def leading_tokens(vision: Any) -> int:
    """Tokens that the tower of this config puts before its patches (CLS, registers).

    Raises:
        ValueError: a tower that is not known, by name.
    """
    if vision.model_type not in _LEADING:
        raise ValueError(f"unknown vision tower {vision.model_type!r}: one of {', '.join(_LEADING)}")
    registers = vision.num_register_tokens if vision.model_type == "dinov2_with_registers" else 0
    return _LEADING[vision.model_type] + int(registers)


def patch_width(config: LlavaAvConfig) -> int:
    """Features of a patch: those of each chosen layer side by side."""
    layer = config.vision_feature_layer
    return int(config.vision_config.hidden_size) * (len(layer) if isinstance(layer, list) else 1)


def patch_features(tower: nn.Module, pixels: Tensor, config: LlavaAvConfig) -> Tensor:
    """Patches of pictures.

    Args:
        tower: the Hugging Face model of `config.vision_config`.
        pixels: `[n, 3, frame_size, frame_size]`, normalised.
        config: says which layers, and whether leading tokens stay.

    Returns:
        `[n, leading + side*side, patch_width(config)]`; `leading` is 0 with the strategy `default`.

    Raises:
        ValueError: pixels of another size than the config's, with both.
    """
    size = config.frame_size
    if pixels.shape[1:] != (3, size, size):
        raise ValueError(f"pixels of shape {list(pixels.shape)}, not [n, 3, {size}, {size}]")
    layer = config.vision_feature_layer
    options = {} if layer is None else {"output_hidden_states": layer}
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
    """Freezes what lies behind the chosen layers: distributed training would wait for its gradients."""
    layers = config.vision_config.num_hidden_layers
    chosen = config.vision_feature_layer
    indices = [-1] if chosen is None else [chosen] if isinstance(chosen, int) else chosen
    used = max(index if index >= 0 else layers + 1 + index for index in indices)
    for name, weight in tower.named_parameters():
        layer = _LAYER.search(name)
        behind = layer is not None and int(layer[1]) >= used
        last_norm = _LAST_NORM.search(name) is not None
        unread = last_norm and (chosen is not None or config.vision_config.model_type == "clip_vision_model")
        if behind or unread or _NEVER.search(name):
            weight.requires_grad_(False)


def _tower_inputs(pixels: Tensor, config: LlavaAvConfig) -> dict[str, Any]:
    vision = config.vision_config
    if vision.model_type == "siglip2_vision_model":
        return _flat_patches(pixels, vision.patch_size, config.side())
    resized = getattr(vision, "image_size", config.frame_size) != config.frame_size
    flag = {"interpolate_pos_encoding": True} if resized and vision.model_type in _INTERPOLATE_BY_FLAG else {}
    return {"pixel_values": pixels} | flag


def _flat_patches(pixels: Tensor, patch: int, side: int) -> dict[str, Any]:
    """SigLIP 2 (NaFlex) takes patches as rows of pixels, each `[patch, patch, 3]`, and the grid's shape."""
    count = len(pixels)
    grid = pixels.view(count, 3, side, patch, side, patch).permute(0, 2, 4, 3, 5, 1)
    return {
        "pixel_values": grid.reshape(count, side * side, -1),
        "pixel_attention_mask": pixels.new_ones(count, side * side, dtype=torch.long),
        "spatial_shapes": torch.tensor([[side, side]] * count, device=pixels.device),
    }
