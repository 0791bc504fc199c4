"""Composition of a new model from separately trained parts: towers and a language model."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import Tensor
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
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
from llava_av.model.media_processors import MediaProcessors, square_processors
from llava_av.model.vision.tower import leading_tokens

__all__ = ["compose_model"]

# As in LLaVA-OneVision; a stride of 2 keeps a quarter of a frame's patches.
_POOL = {"stride": 2, "mode": "bilinear", "rounding": "ceil"}
# Prefixes of other weights in a tower's folder: a text tower, heads that pool patches, indices of old files.
_IGNORED_PREFIXES = (
    *("text_model.", "text_projection.", "visual_projection.", "logit_scale", "logit_bias"),
    *("head.", "classifier.", "embeddings.position_ids", "vision_model.embeddings.position_ids"),
)


@dataclass(frozen=True, kw_only=True)
class _VisionPart:
    """Vision tower as fields of the config, weights by name in the model, and processors."""

    fields: Mapping[str, object] = field(default_factory=lambda: {"vision_config": None})
    weights: Mapping[str, Tensor] = field(default_factory=dict)
    processors: MediaProcessors = field(default_factory=MediaProcessors)


def compose_model(
    language: Path,
    target: Path,
    *,
    vision: Path | None = None,
    audio: Path | None = None,
    audio_stack: int = 4,
    chunk_s: float | None = None,
    changes: Mapping[str, object] = MappingProxyType({}),
    seed: int = 0,
) -> LlavaAvConfig:
    """Write a model composed of parts from local Hugging Face folders.

    The tokenizer gets a placeholder token for each modality, and the vocabulary rows for them; only the
    connectors between the parts are fresh.

    Args:
        language: A causal language model with its tokenizer and chat template.
        target: Folder to create.
        vision: A CLIP, SigLIP, SigLIP 2 or DINOv2 tower with its image processor.
        audio: A wav2vec2, HuBERT, WavLM or Whisper tower with its feature extractor.
        audio_stack: Number of neighbouring audio features that become one token.
        chunk_s: Seconds after which video and audio tokens alternate; None: all video, then all audio.
        changes: Other settings by name, as in a recipe's `model` and `media`.
        seed: Seed of the connectors.

    Returns:
        The model's config.

    Raises:
        ModelFilesError: There is no tower, or an unknown one; weights are missing, left over or differ in
            shape; or settings are unknown, not allowed or do not fit; names them.
    """
    require_empty(target)
    if vision is None and audio is None:
        raise ModelFilesError("a model without towers cannot be composed: give --vision, --audio or both")
    changed = check_settings(changes)
    audio_fields = {"audio_config": None} if audio is None else audio_settings(audio, stack=audio_stack)
    tower = _VisionPart() if vision is None else _read_vision(vision)
    text_model, tokenizer = _read_language(language)
    modalities = [*(("image", "video") if vision else ()), *(("audio",) if audio else ())]
    token_ids = add_placeholders(tokenizer, modalities)
    weights = _language_weights(text_model, len(tokenizer))
    own = _language_fields(text_model, weights) | {"chunk_s": chunk_s}
    config = build_config({**own, **tower.fields, **audio_fields, **changed, **token_ids})
    complete_model(
        target,
        config,
        {**weights, **tower.weights},
        tokenizer,
        tower.processors,
        audio=audio,
        seed=seed,
        generation=text_model.generation_config,
    )
    return config


def _read_language(folder: Path) -> tuple[Any, Any]:
    """Return a causal language model and its tokenizer."""
    require_folder(folder)
    config = read_pretrained(AutoConfig, folder)
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ModelFilesError(
            f"{folder} has model_type={config.model_type}, but --language takes a causal language model"
        )
    require_weights(folder, pickled=True)
    require_tokenizer(folder)
    return load_weights(AutoModelForCausalLM, folder), read_pretrained(AutoTokenizer, folder)


def _read_vision(folder: Path) -> _VisionPart:
    require_folder(folder)
    found = read_pretrained(AutoConfig, folder)
    config = getattr(found, "vision_config", found)
    leading_tokens(config)
    require_weights(folder, pickled=True)
    require_processor(folder)
    if hasattr(config, "vision_use_head"):
        # the head pools patches into one vector, which the model does not use
        config.vision_use_head = False
    architecture = type(AutoModel.from_config(config))
    tower = load_weights(architecture, folder, ignored_prefixes=_IGNORED_PREFIXES, config=config)
    own = read_pretrained(AutoImageProcessor, folder)
    size = _frame_size(config)
    fields = {
        "vision_config": config.to_dict(),
        "frame_size": size,
        "resized_by": "processor",
        "resampler": "spatial_pool",
        "resampler_options": _POOL,
        "resample_images": False,
    }
    return _VisionPart(
        fields=fields,
        weights={f"vision_tower.{name}": tensor for name, tensor in tower.state_dict().items()},
        processors=square_processors(size, mean=own.image_mean, std=own.image_std),
    )


def _frame_size(config: Any) -> int:
    """Return the side of the tower's training images in pixels."""
    size = getattr(config, "image_size", None)
    if size is not None:
        return int(size)
    return int(config.num_patches**0.5) * int(config.patch_size)


def _language_weights(text_model: Any, tokens: int) -> dict[str, Tensor]:
    """Return the language model's weights by name in the model, with embeddings for `tokens` tokens."""
    embeddings = (text_model.get_input_embeddings(), text_model.get_output_embeddings())
    modules = dict(text_model.named_modules())

    def extended(name: str, tensor: Tensor) -> Tensor:
        owner = modules.get(name.rpartition(".")[0])
        return add_rows(tensor, tokens) if any(owner is one for one in embeddings) else tensor

    return {
        f"language_model.{name}": extended(name, tensor) for name, tensor in text_model.state_dict().items()
    }


def _language_fields(text_model: Any, weights: Mapping[str, Tensor]) -> dict[str, object]:
    """Return the fields of the config that describe the language model."""
    rows = {"vocab_size": _vocabulary_rows(text_model, weights)}
    return {"text_config": text_model.config.to_dict() | rows, "dtype": text_model.dtype}


def _vocabulary_rows(text_model: Any, weights: Mapping[str, Tensor]) -> int:
    embeddings = text_model.get_input_embeddings()
    names = {id(module): name for name, module in text_model.named_modules()}
    return len(weights[f"language_model.{names[id(embeddings)]}.weight"])
