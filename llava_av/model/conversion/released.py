"""Released LLaVA models: names of their weights, and the settings with which this model computes the same."""

from collections.abc import Iterable
from typing import Any

from transformers import (
    LlavaForConditionalGeneration,
    LlavaNextForConditionalGeneration,
    LlavaNextVideoForConditionalGeneration,
    LlavaOnevisionForConditionalGeneration,
    PreTrainedModel,
)

from llava_av.model.files.reading import ModelFilesError
from llava_av.model.vision.tower import leading_tokens

__all__ = ["RELEASED_FAMILIES", "own_name", "released_name", "settings_of_released"]

RELEASED_FAMILIES: dict[str, type[PreTrainedModel]] = {
    "llava": LlavaForConditionalGeneration,
    "llava_next": LlavaNextForConditionalGeneration,
    "llava_next_video": LlavaNextVideoForConditionalGeneration,
    "llava_onevision": LlavaOnevisionForConditionalGeneration,
}
_PREFIXES = (
    ("model.vision_tower.", "vision_tower."),
    ("model.multi_modal_projector.", "vision_projector."),
    ("model.image_newline", "newline"),
    ("model.language_model.", "language_model.model."),
    ("lm_head.", "language_model.lm_head."),
)


def own_name(name: str) -> str:
    """Return the name in this project's model of a weight of a released one."""
    return _renamed(name, ((before, after) for before, after in _PREFIXES))


def released_name(name: str) -> str:
    """Return the name in a released model of a weight of this project's."""
    return _renamed(name, ((after, before) for before, after in _PREFIXES))


def settings_of_released(found: Any) -> dict[str, object]:
    """Return the settings, without the language model's, of a model that computes the same as a released one.

    Args:
        found: Config of the released model.

    Raises:
        ModelFilesError: This project's model cannot compute the same; names the field.
    """
    vision = found.vision_config
    _require_known(found)
    shared: dict[str, object] = {
        "vision_config": vision.to_dict(),
        "vision_feature_layer": found.vision_feature_layer,
        "vision_feature_select_strategy": found.vision_feature_select_strategy,
        "vision_projector": "mlp",
        "vision_projector_options": {
            "layers": 2,
            "activation": found.projector_hidden_act,
            "norm": False,
            "bias": found.multimodal_projector_bias,
        },
        "resampler": "identity",
        "resample_images": False,
        "frame_size": vision.image_size,
        "resized_by": "processor",
        "image_token_id": found.image_token_index,
        "audio_config": None,
        "chunk_s": None,
        "frames_per_s": 1.0,
        "max_audio_s": 30.0,
    }
    return shared | _tiles(found) | _video(found)


def _tiles(found: Any) -> dict[str, object]:
    if found.model_type == "llava":
        return {}
    tiles: dict[str, object] = {"image_grid_pinpoints": [list(one) for one in found.image_grid_pinpoints]}
    if found.model_type == "llava_onevision":
        return tiles | {"anyres_max_tiles": _max_tiles(found), "tile_several_images": False}
    return tiles


def _max_tiles(found: Any) -> int:
    ratio = str(found.vision_aspect_ratio)
    number = ratio.removeprefix("anyres_max_")
    if number == ratio or not number.isdecimal() or not int(number):
        raise ModelFilesError(
            f"vision_aspect_ratio={ratio!r} of the source must be anyres_max_N with N ≥ 1; llava-onevision "
            "was trained with anyres_max_9"
        )
    return int(number)


def _video(found: Any) -> dict[str, object]:
    if found.model_type == "llava_next_video":
        pool = {"stride": found.spatial_pool_stride, "mode": found.spatial_pool_mode, "rounding": "floor"}
        return {
            "resampler": "spatial_pool",
            "resampler_options": pool,
            "video_token_id": found.video_token_index,
        }
    if found.model_type == "llava_onevision":
        return {
            "resampler": "spatial_pool",
            "resampler_options": {"stride": 2, "mode": "bilinear", "rounding": "ceil"},
            "resample_projected": True,
            "video_newline": "one",
            "video_token_id": found.video_token_index,
        }
    return {}


def _require_known(found: Any) -> None:
    """Check that this model can compute what transformers computes for the source."""
    if found.vision_feature_select_strategy == "default" and not leading_tokens(found.vision_config):
        raise ModelFilesError(
            f"vision_feature_select_strategy='default' of the source must be 'full' for a "
            f"{found.vision_config.model_type}, which has no CLS token: transformers drops its first patch"
        )
    if getattr(found, "spatial_pool_mode", "average") not in ("average", "max"):
        raise ModelFilesError(
            f"spatial_pool_mode={found.spatial_pool_mode!r} of the source must be average or max"
        )


def _renamed(name: str, prefixes: Iterable[tuple[str, str]]) -> str:
    for before, after in prefixes:
        if name.startswith(before):
            return after + name.removeprefix(before)
    return name
