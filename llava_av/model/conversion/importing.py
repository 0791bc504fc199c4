"""Conversion of a released LLaVA model: the same weights, the same outputs."""

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
    PreTrainedModel,
)

from llava_av.model.configuration import LlavaAvConfig
from llava_av.model.conversion.folder_writing import complete_model
from llava_av.model.conversion.settings import build_config, check_settings
from llava_av.model.conversion.weights import (
    add_placeholders,
    add_rows,
    audio_settings,
)
from llava_av.model.files.folder_checks import (
    require_empty,
    require_folder,
    require_processor,
    require_tokenizer,
    require_weights,
)
from llava_av.model.files.reading import ModelFilesError, load_weights, read_pretrained
from llava_av.model.media_processors import MediaProcessors
from llava_av.model.vision.tower import leading_tokens

__all__ = ["import_model"]

_FAMILIES: dict[str, type[PreTrainedModel]] = {
    "llava": LlavaForConditionalGeneration,
    "llava_next": LlavaNextForConditionalGeneration,
    "llava_next_video": LlavaNextVideoForConditionalGeneration,
    "llava_onevision": LlavaOnevisionForConditionalGeneration,
}
_FIXED_BY_WEIGHTS = ("vision_projector", "vision_projector_options", "vision_feature_layer")
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
    changes: Mapping[str, object] = MappingProxyType({}),
    seed: int = 0,
) -> LlavaAvConfig:
    """Convert a released LLaVA model.

    Args:
        source: Local Hugging Face folder of LLaVA-1.5, LLaVA-NeXT, LLaVA-NeXT-Video or LLaVA-OneVision.
        target: Folder to create.
        audio: Local Hugging Face folder of an audio tower to add; None: a model without audio.
        audio_stack: Number of neighbouring audio features that become one token.
        changes: Other settings by name, as in a recipe's `model` and `media`.
        seed: Seed of untrained weights, such as the audio down-sampler and projector.

    Returns:
        The model's config.

    Raises:
        ModelFilesError: The source is another model; weights are missing, left over or differ in shape; or
            settings are unknown, not allowed or do not fit; names them.
    """
    require_empty(target)
    changed = check_settings(changes, fixed=_FIXED_BY_WEIGHTS)
    found = _read_config(source)
    settings = _settings(found)
    audio_fields = {} if audio is None else audio_settings(audio, stack=audio_stack)
    model = load_weights(_FAMILIES[found.model_type], source)
    given = read_pretrained(AutoProcessor, source)
    tokenizer = given.tokenizer
    tokenizer.chat_template = given.chat_template or tokenizer.chat_template
    token_ids = {} if audio is None else add_placeholders(tokenizer, ["audio"])
    weights = {_renamed(name): tensor for name, tensor in model.state_dict().items()}
    text = _text_config(found, vocabulary_rows=_extend_vocabulary(weights, len(tokenizer)))
    own = {"text_config": text, "dtype": model.dtype}
    config = build_config({**settings, **audio_fields, **token_ids, **own, **changed})
    complete_model(
        target,
        config,
        weights,
        tokenizer,
        MediaProcessors(
            image=getattr(given, "image_processor", None), video=getattr(given, "video_processor", None)
        ),
        audio=audio,
        seed=seed,
        generation=model.generation_config,
    )
    return config


def _read_config(source: Path) -> Any:
    """Return the config of a folder that can be imported."""
    require_folder(source)
    found = read_pretrained(AutoConfig, source)
    if found.model_type not in _FAMILIES:
        raise ModelFilesError(
            f"{source} has model_type={found.model_type}, must be one of {', '.join(_FAMILIES)}"
        )
    require_weights(source, pickled=True)
    require_tokenizer(source)
    require_processor(source)
    return found


def _settings(found: Any) -> dict[str, object]:
    """Return the settings, without the language model's, of a model that computes the same as the source."""
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


def _text_config(found: Any, *, vocabulary_rows: int) -> dict[str, object]:
    own = {"tie_word_embeddings": found.tie_word_embeddings, "vocab_size": vocabulary_rows}
    return {**found.text_config.to_dict(), **own}


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


def _renamed(name: str) -> str:
    for before, after in _PREFIXES:
        if name.startswith(before):
            return after + name.removeprefix(before)
    return name


def _extend_vocabulary(weights: dict[str, Tensor], tokens: int) -> int:
    """Add rows for new tokens where needed, and return the rows of the vocabulary."""
    for name in ("language_model.model.embed_tokens.weight", "language_model.lm_head.weight"):
        if name in weights:
            weights[name] = add_rows(weights[name], tokens)
    rows = [len(tensor) for name, tensor in weights.items() if name.endswith("embed_tokens.weight")]
    return rows[0] if rows else tokens
