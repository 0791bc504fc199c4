"""A new model of separate pretrained parts: towers and a language model that have never met."""

from collections.abc import Mapping
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
    LlavaOnevisionVideoProcessor,
    SiglipImageProcessor,
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

__all__ = ["compose_model"]

# A stride of 2 leaves a quarter of a frame's patches, as LLaVA-OneVision has it.
_POOL = {"stride": 2, "mode": "bilinear", "rounding": "ceil"}
# What a folder of a tower holds beside it: another for text, heads that pool patches, indices of old files.
_BESIDE = (
    *("text_model.", "text_projection.", "visual_projection.", "logit_scale", "logit_bias"),
    *("head.", "classifier.", "embeddings.position_ids", "vision_model.embeddings.position_ids"),
)


def compose_model(
    language: Path,
    target: Path,
    *,
    vision: Path | None = None,
    audio: Path | None = None,
    audio_stack: int = 4,
    chunk_s: float | None = None,
    changes: Mapping[str, Any] = MappingProxyType({}),
    seed: int = 0,
) -> LlavaAvConfig:
    """Writes a model of parts from local Hugging Face folders.

    The tokenizer gets a placeholder for each kind of medium, and the vocabulary room for them; only the
    joints between the parts are fresh.

    Args:
        language: a causal language model with its tokenizer and chat template.
        target: folder to be made.
        vision: a CLIP, SigLIP, SigLIP 2 or DINOv2 tower with its image processor.
        audio: a wav2vec2, HuBERT, WavLM or Whisper tower with its feature extractor.
        audio_stack: neighbouring audio features that are joined into one token.
        chunk_s: seconds of video and sound that alternate; None: all video, then all sound.
        changes: other settings by name, as in a recipe's `model` and `media`.
        seed: of the joints.

    Returns:
        The model's config.

    Raises:
        ModelFilesError: no tower, one of an unknown kind, or weights that are missing, left over or of
            another size, by name; or settings that are unknown, not allowed or do not
            fit each other.
    """
    require_empty(target)
    changed = checked_settings(changes)
    if vision is None and audio is None:
        raise ModelFilesError("a model of language alone is no audio-visual model: name --vision or --audio")
    _require_language(language)
    heard = {} if audio is None else audio_settings(audio, stack=audio_stack)
    seen, weights_seen, processors = ({}, {}, {}) if vision is None else _vision_part(vision)
    speaker = loaded(AutoModelForCausalLM, language)
    tokenizer = pretrained(AutoTokenizer, language)
    kinds = [*(("image", "video") if vision else ()), *(("audio",) if audio else ())]
    add_placeholders(tokenizer, [MARKS[kind] for kind in kinds])
    ids: dict[str, Any] = {f"{kind}_token_id": tokenizer.convert_tokens_to_ids(MARKS[kind]) for kind in kinds}
    weights: dict[str, Tensor] = {
        f"language_model.{name}": _roomy(name, tensor, speaker, len(tokenizer))
        for name, tensor in speaker.state_dict().items()
    }
    rows = len(weights[_input_embeddings(speaker)])
    settings: dict[str, Any] = {
        "text_config": speaker.config.to_dict() | {"vocab_size": rows},
        "vision_config": None,
        "audio_config": None,
        "dtype": speaker.dtype,
        "chunk_s": chunk_s,
    }
    settings |= seen | heard
    weights |= weights_seen
    config = fitting_config(settings | changed | ids)
    if audio is not None:
        weights |= audio_weights(audio, config)
    weights |= fresh_joints(config, seed, weights)
    processor = LlavaAvProcessor(tokenizer, config, **processors)
    write_model(target, config, weights, processor, speaker.generation_config)
    return config


def _require_language(folder: Path) -> None:
    require_folder(folder)
    config = pretrained(AutoConfig, folder)
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ModelFilesError(
            f"{folder} is a model of type {config.model_type}: --language takes a causal language model"
        )
    require_weights(folder, pickled=True)
    require_tokenizer(folder)


def _vision_part(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Any]]:
    """Settings, weights and processors of the vision tower in a folder."""
    require_folder(folder)
    found = pretrained(AutoConfig, folder)
    config = getattr(found, "vision_config", found)
    leading_tokens(config)
    require_weights(folder, pickled=True)
    require_processor(folder)
    if hasattr(config, "vision_use_head"):
        # the head pools patches into one vector, which nothing reads here
        config.vision_use_head = False
    architecture = type(AutoModel.from_config(config))
    tower = loaded(architecture, folder, beside=_BESIDE, config=config)
    own = pretrained(AutoImageProcessor, folder)
    size = _frame_size(config)
    square = {"height": size, "width": size}
    shared: dict[str, Any] = {"size": square, "image_mean": own.image_mean, "image_std": own.image_std}
    settings = {
        "vision_config": config.to_dict(),
        "frame_size": size,
        "resized_by": "processor",
        "resampler": "spatial_pool",
        "resampler_options": _POOL,
        "resample_images": False,
    }
    processors = {
        "image_processor": SiglipImageProcessor(**shared),
        "video_processor": LlavaOnevisionVideoProcessor(**shared, do_sample_frames=False),
    }
    weights = {f"vision_tower.{name}": tensor for name, tensor in tower.state_dict().items()}
    return settings, weights, processors


def _frame_size(config: Any) -> int:
    """Side of the pictures that the tower was trained on, in pixels."""
    size = getattr(config, "image_size", None)
    if size is not None:
        return int(size)
    return int(config.num_patches**0.5) * int(config.patch_size)


def _input_embeddings(speaker: Any) -> str:
    embeddings = speaker.get_input_embeddings()
    names = {id(module): name for name, module in speaker.named_modules()}
    return f"language_model.{names[id(embeddings)]}.weight"


def _roomy(name: str, tensor: Tensor, speaker: Any, tokens: int) -> Tensor:
    """The tensor, with rows for new tokens where it has one for each."""
    owners = (speaker.get_input_embeddings(), speaker.get_output_embeddings())
    modules = dict(speaker.named_modules())
    owner = modules.get(name.rpartition(".")[0])
    return more_rows(tensor, tokens) if any(owner is one for one in owners) else tensor
