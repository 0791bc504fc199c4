"""Conversion of a released LLaVA model: the same weights, the same outputs."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import Tensor
from transformers import AutoConfig, AutoProcessor

from llava_av.model.configuration import LlavaAvConfig
from llava_av.model.conversion.folder_writing import complete_model
from llava_av.model.conversion.released import RELEASED_FAMILIES, own_name, settings_of_released
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

__all__ = ["import_model"]

_FIXED_BY_WEIGHTS = ("vision_projector", "vision_projector_options", "vision_feature_layer")


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
    settings = settings_of_released(found)
    audio_fields = {} if audio is None else audio_settings(audio, stack=audio_stack)
    model = load_weights(RELEASED_FAMILIES[found.model_type], source)
    given = read_pretrained(AutoProcessor, source)
    tokenizer = given.tokenizer
    tokenizer.chat_template = given.chat_template or tokenizer.chat_template
    token_ids = {} if audio is None else add_placeholders(tokenizer, ["audio"])
    weights = {own_name(name): tensor for name, tensor in model.state_dict().items()}
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
    if found.model_type not in RELEASED_FAMILIES:
        raise ModelFilesError(
            f"{source} has model_type={found.model_type}, must be one of {', '.join(RELEASED_FAMILIES)}"
        )
    require_weights(source, pickled=True)
    require_tokenizer(source)
    require_processor(source)
    return found


def _text_config(found: Any, *, vocabulary_rows: int) -> dict[str, object]:
    own = {"tie_word_embeddings": found.tie_word_embeddings, "vocab_size": vocabulary_rows}
    return {**found.text_config.to_dict(), **own}


def _extend_vocabulary(weights: dict[str, Tensor], tokens: int) -> int:
    """Add rows for new tokens where needed, and return the rows of the vocabulary."""
    for name in ("language_model.model.embed_tokens.weight", "language_model.lm_head.weight"):
        if name in weights:
            weights[name] = add_rows(weights[name], tokens)
    rows = [len(tensor) for name, tensor in weights.items() if name.endswith("embed_tokens.weight")]
    return rows[0] if rows else tokens
