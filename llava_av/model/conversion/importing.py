"""Released LLaVA models as models of this project: the same weights, the same numbers."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import Tensor
from transformers import (
    AutoConfig,
    AutoProcessor,
    LlavaForConditionalGeneration,
    LlavaNextForConditionalGeneration,
    LlavaNextVideoForConditionalGeneration,
    LlavaOnevisionForConditionalGeneration,
)

from llava_av.model.configuration import LlavaAvConfig
from llava_av.model.conversion.settings import checked_settings, fitting_config
from llava_av.model.conversion.weights import (
    add_placeholders,
    audio_settings,
    audio_weights,
    fresh_joints,
    more_rows,
    require_empty,
    write_model,
)
from llava_av.model.loading.model_folder import (
    require_folder,
    require_processor,
    require_tokenizer,
    require_weights,
)
from llava_av.model.loading.weight_files import ModelFilesError, loaded, pretrained
from llava_av.model.processing import LlavaAvProcessor
from llava_av.model.sequence.chat_template import MARKS
from llava_av.model.vision.tower import leading_tokens

__all__ = ["import_model"]

_FAMILIES: dict[str, Any] = {
    "llava": LlavaForConditionalGeneration,
    "llava_next": LlavaNextForConditionalGeneration,
    "llava_next_video": LlavaNextVideoForConditionalGeneration,
    "llava_onevision": LlavaOnevisionForConditionalGeneration,
}
_OF_THE_WEIGHTS = ("vision_projector", "vision_projector_options", "vision_feature_layer")
_PREFIXES = (
    ("model.vision_tower.", "vision_tower."),
    ("model.multi_modal_projector.", "vision_projector."),
    ("model.image_newline", "newline"),
    ("model.language_model.", "language_model.model."),
    ("lm_head.", "language_model.lm_head."),
)


def import_model(
    source: Path,
    target: Path,
    *,
    audio: Path | None = None,
    audio_stack: int = 4,
    changes: Mapping[str, Any] = MappingProxyType({}),
    seed: int = 0,
) -> LlavaAvConfig:
    """Writes a released LLaVA model as one of this project.

    Args:
        source: local Hugging Face folder of LLaVA-1.5, LLaVA-NeXT, LLaVA-NeXT-Video or LLaVA-OneVision.
        target: folder to be made.
        audio: local Hugging Face folder of an audio tower; without it the model has no audio part.
        audio_stack: neighbouring audio features that are joined into one token.
        changes: other settings by name, as in a recipe's `model` and `media`.
        seed: of what nobody has trained, such as the audio down-sampler and projector.

    Returns:
        The model's config.

    Raises:
        ModelFilesError: a source that is none of these, or weights that are missing, left over or of another
            size, by name; or settings that are unknown, not allowed or do not fit.
    """
    require_empty(target)
    changed = checked_settings(changes, fixed=_OF_THE_WEIGHTS)
    require_folder(source)
    found = pretrained(AutoConfig, source)
    if found.model_type not in _FAMILIES:
        raise ModelFilesError(
            f"{source} is a model of type {found.model_type}; these can be imported: {', '.join(_FAMILIES)}"
        )
    require_weights(source, pickled=True)
    require_tokenizer(source)
    require_processor(source)
    settings = _settings(found)
    if audio is not None:
        settings |= audio_settings(audio, stack=audio_stack)
    model = loaded(_FAMILIES[found.model_type], source)
    given = pretrained(AutoProcessor, source)
    tokenizer = given.tokenizer
    tokenizer.chat_template = given.chat_template or tokenizer.chat_template
    settings["dtype"] = model.dtype
    if audio is not None:
        add_placeholders(tokenizer, [MARKS["audio"]])
        settings["audio_token_id"] = tokenizer.convert_tokens_to_ids(MARKS["audio"])
    weights = {_renamed(name): tensor for name, tensor in model.state_dict().items()}
    rows = _grown(weights, len(tokenizer))
    settings["text_config"]["vocab_size"] = rows
    config = fitting_config(settings | changed)
    if audio is not None:
        weights |= audio_weights(audio, config)
    weights |= fresh_joints(config, seed, weights)
    processor = LlavaAvProcessor(
        tokenizer,
        config,
        image_processor=given.image_processor,
        video_processor=getattr(given, "video_processor", None),
    )
    write_model(target, config, weights, processor, model.generation_config)
    return config


def _settings(found: Any) -> dict[str, Any]:
    """The config of a model that computes what the source does."""
    vision = found.vision_config
    _require_known(found)
    shared = {
        "vision_config": vision.to_dict(),
        "text_config": found.text_config.to_dict() | {"tie_word_embeddings": found.tie_word_embeddings},
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


def _tiles(found: Any) -> dict[str, Any]:
    if found.model_type == "llava":
        return {}
    tiles: dict[str, Any] = {"image_grid_pinpoints": [list(one) for one in found.image_grid_pinpoints]}
    if found.model_type == "llava_onevision":
        return tiles | {"anyres_max_tiles": _most_tiles(found), "tile_several_images": False}
    return tiles


def _most_tiles(found: Any) -> int:
    ratio = str(found.vision_aspect_ratio)
    most = ratio.removeprefix("anyres_max_")
    if most == ratio or not most.isdecimal() or not int(most):
        raise ModelFilesError(
            f"vision_aspect_ratio={ratio!r} of the source; anyres_max_N with a number N from 1 can be "
            "imported, as llava-onevision was trained with anyres_max_9"
        )
    return int(most)


def _video(found: Any) -> dict[str, Any]:
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
    """Refuses what transformers computes in a way that this model does not."""
    if found.vision_feature_select_strategy == "default" and not leading_tokens(found.vision_config):
        raise ModelFilesError(
            f"vision_feature_select_strategy='default' with a {found.vision_config.model_type}, which has no "
            "CLS token: transformers would drop its first patch"
        )
    if getattr(found, "spatial_pool_mode", "average") not in ("average", "max"):
        raise ModelFilesError(
            f"spatial_pool_mode={found.spatial_pool_mode!r} of the source; average and max can be imported"
        )


def _renamed(name: str) -> str:
    for before, after in _PREFIXES:
        if name.startswith(before):
            return after + name.removeprefix(before)
    return name


def _grown(weights: dict[str, Tensor], tokens: int) -> int:
    """Makes room for new tokens where there is none; gives the rows of the vocabulary."""
    for name in ("language_model.model.embed_tokens.weight", "language_model.lm_head.weight"):
        if name in weights:
            weights[name] = more_rows(weights[name], tokens)
    rows = [len(tensor) for name, tensor in weights.items() if name.endswith("embed_tokens.weight")]
    return rows[0] if rows else tokens
