"""Conversion of a model to the format of a released LLaVA family, the reverse of `importing`.

Other programs load the result with transformers' own classes. Whether such a class computes the same is
checked by the way back: the settings of the written config must be those of the model.
"""

from pathlib import Path
from typing import Any

import torch
from transformers import (
    LlavaNextProcessor,
    LlavaNextVideoProcessor,
    LlavaOnevisionProcessor,
    LlavaProcessor,
    PreTrainedModel,
)

from llava_av.model.configuration import LlavaAvConfig
from llava_av.model.conversion.released import RELEASED_FAMILIES, released_name, settings_of_released
from llava_av.model.files.reading import ModelFilesError
from llava_av.model.loading.writing import SHARD_SIZE
from llava_av.model.modeling import LlavaAvForConditionalGeneration
from llava_av.model.processing import LlavaAvProcessor
from llava_av.model.vision.tower import leading_tokens

__all__ = ["write_released_model"]

# Fields that do not change what a model computes for given tokens and pixels.
_NOT_COMPUTED = {
    *("frames_per_s", "max_frames", "max_audio_s", "max_tokens", "over_limit"),
    *("text_config", "audio_token_times"),
}
_COMPUTED = sorted(set(LlavaAvConfig.__annotations__) - _NOT_COMPUTED)


def write_released_model(
    model: LlavaAvForConditionalGeneration, processor: LlavaAvProcessor, target: Path
) -> str:
    """Write a model in the format of transformers' own LLaVA class; return its `model_type`.

    Args:
        model: Whole model.
        processor: Its processor.
        target: Folder to create.

    Raises:
        ModelFilesError: No class computes the same; the message names the setting.
    """
    config = _released_config(model.config)
    _require_same(model.config, config)
    with torch.device("meta"):
        released: PreTrainedModel = RELEASED_FAMILIES[config.model_type](config)
    weights = {released_name(name): tensor for name, tensor in model.state_dict().items()}
    released.load_state_dict(weights, assign=True)
    released.generation_config = model.generation_config
    released.config.dtype = model.config.dtype
    released.save_pretrained(target, max_shard_size=SHARD_SIZE)
    _released_processor(processor, config).save_pretrained(target)
    return str(config.model_type)


def _family(config: LlavaAvConfig) -> str:
    if config.video_token_id is not None:
        return "llava_onevision" if config.resample_projected else "llava_next_video"
    return "llava" if config.image_grid_pinpoints is None else "llava_next"


def _released_config(config: LlavaAvConfig) -> Any:
    """Return the config of the family whose settings are nearest."""
    if not config.has_vision or config.has_audio:
        raise ModelFilesError(
            "released LLaVA models have a vision tower and no audio tower: export this model without "
            "--released"
        )
    projector, resampler = config.vision_projector_options or {}, config.resampler_options or {}
    fields: dict[str, Any] = {
        "vision_config": config.vision_config.to_dict(),
        "text_config": config.text_config.to_dict(),
        "vision_feature_layer": config.vision_feature_layer,
        "vision_feature_select_strategy": config.vision_feature_select_strategy,
        "projector_hidden_act": projector.get("activation", "gelu"),
        "multimodal_projector_bias": projector.get("bias", True),
        "image_token_index": config.image_token_id,
        "tie_word_embeddings": config.tie_word_embeddings,
    }
    family = _family(config)
    if family != "llava":
        fields["image_grid_pinpoints"] = config.image_grid_pinpoints
    if config.video_token_id is not None:
        fields["video_token_index"] = config.video_token_id
    if family == "llava_next_video":
        fields |= {
            f"spatial_pool_{name}": resampler[name] for name in ("stride", "mode") if name in resampler
        }
    if family == "llava_onevision":
        fields["vision_aspect_ratio"] = f"anyres_max_{config.anyres_max_tiles}"
    build: Any = RELEASED_FAMILIES[family].config_class
    return build(**fields)


def _require_same(config: LlavaAvConfig, released: Any) -> None:
    settings = settings_of_released(released)
    again = LlavaAvConfig.from_fields({**settings, "text_config": config.text_config.to_dict()})
    own, other = config.to_dict(), again.to_dict()
    for name in _COMPUTED:
        if own.get(name) != other.get(name):
            raise ModelFilesError(
                f"no class of transformers has {name}={own.get(name)!r}; the nearest, {released.model_type}, "
                f"has {other.get(name)!r}: export this model without --released"
            )


def _released_processor(processor: LlavaAvProcessor, config: Any) -> Any:
    shared = {
        "image_processor": processor.image_processor,
        "tokenizer": processor.tokenizer,
        "chat_template": processor.tokenizer.chat_template,
        "vision_feature_select_strategy": config.vision_feature_select_strategy,
    }
    if config.model_type == "llava_onevision":
        return LlavaOnevisionProcessor(
            **shared,
            video_processor=processor.video_processor,
            num_image_tokens=processor.config.patches_per_side**2,
            vision_aspect_ratio=config.vision_aspect_ratio,
        )
    shared |= {
        "patch_size": config.vision_config.patch_size,
        "num_additional_image_tokens": leading_tokens(config.vision_config),
    }
    if config.model_type == "llava_next_video":
        return LlavaNextVideoProcessor(**shared, video_processor=processor.video_processor)
    return (LlavaProcessor if config.model_type == "llava" else LlavaNextProcessor)(**shared)
