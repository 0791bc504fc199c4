"""Weights of a converted model from existing ones, and fresh weights for its connectors."""

from collections.abc import Callable, Collection, Iterable
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoFeatureExtractor, PreTrainedTokenizerBase

from llava_av.model.audio.tower import load_audio_tower
from llava_av.model.configuration import LlavaAvConfig
from llava_av.model.connector.from_config import (
    audio_downsampler_of,
    audio_projector_of,
    resampler_of,
    vision_projector_of,
)
from llava_av.model.encoders import initialise_connector, new_newline
from llava_av.model.files.folder_checks import require_folder, require_processor, require_weights
from llava_av.model.files.reading import ModelFilesError, read_pretrained
from llava_av.model.sequence.chat_template import MEDIA_TAGS

__all__ = [
    "add_placeholders",
    "add_rows",
    "audio_settings",
    "audio_weights",
    "fresh_connectors",
]

_AUDIO_TOWERS = ("wav2vec2", "hubert", "wavlm", "whisper")


def audio_settings(folder: Path, *, stack: int) -> dict[str, object]:
    """Return the fields of a config that describe the audio tower of a folder.

    Args:
        folder: Folder with the tower's config, weights and feature extractor.
        stack: Number of neighbouring features that become one token.

    Raises:
        ModelFilesError: The tower is unknown, or the folder has no feature extractor.
    """
    require_folder(folder)
    config = read_pretrained(AutoConfig, folder)
    if config.model_type not in _AUDIO_TOWERS:
        raise ModelFilesError(
            f"unknown audio tower {config.model_type!r} in {folder}: one of {', '.join(_AUDIO_TOWERS)}"
        )
    require_weights(folder, pickled=True)
    require_processor(folder)
    extractor = read_pretrained(AutoFeatureExtractor, folder)
    settings = {
        name: value
        for name, value in extractor.to_dict().items()
        if name not in ("feature_extractor_type", "processor_class")
    }
    return {
        "audio_config": config.to_dict(),
        "audio_extractor": settings,
        "sample_rate_hz": extractor.sampling_rate,
        "audio_downsampler": "stack",
        "audio_downsampler_options": {"size": stack},
        "audio_token_times": "stride",
    }


def audio_weights(folder: Path, config: LlavaAvConfig) -> dict[str, Tensor]:
    """Return the weights of an audio tower by their names in the model.

    Raises:
        ModelFilesError: Weights are missing, left over or differ in shape; names them.
    """
    try:
        tower = load_audio_tower(folder, sample_rate_hz=config.sample_rate_hz)
    except ValueError as error:
        raise ModelFilesError(str(error)) from None
    return _prefixed("audio_tower", tower)


def fresh_connectors(config: LlavaAvConfig, seed: int, existing: Collection[str]) -> dict[str, Tensor]:
    """Return fresh weights for the connectors that have none; equal seeds give equal weights.

    Args:
        config: Config of the model.
        seed: Seed of the weights.
        existing: Names of the existing weights.
    """
    fresh: dict[str, Tensor] = {}

    def add(part: str, build: Callable[[], nn.Module]) -> None:
        if not any(name.startswith(f"{part}.") for name in existing):
            fresh.update(_prefixed(part, initialise_connector(build())))

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if config.has_vision:
            add("vision_projector", lambda: vision_projector_of(config))
            add("resampler", lambda: resampler_of(config))
        if config.has_audio:
            with torch.device("meta"):
                width = audio_downsampler_of(config).width_out
            add("audio_downsampler", lambda: audio_downsampler_of(config))
            add("audio_projector", lambda: audio_projector_of(config, width))
        if config.has_vision and config.video_newline != "none" and "newline" not in existing:
            fresh["newline"] = new_newline(config)
    return fresh


def add_placeholders(tokenizer: PreTrainedTokenizerBase, modalities: Iterable[str]) -> dict[str, int]:
    """Add the placeholder tokens that the tokenizer lacks, and return their IDs by field of the config."""
    tags = {modality: MEDIA_TAGS[modality] for modality in modalities}
    new = [tag for tag in tags.values() if tag not in tokenizer.get_vocab()]
    tokenizer.add_tokens(new, special_tokens=True)
    vocabulary = tokenizer.get_vocab()
    return {f"{modality}_token_id": vocabulary[tag] for modality, tag in tags.items()}


def add_rows(weight: Tensor, rows: int) -> Tensor:
    """Extend `[vocabulary, width]` to at least `rows` rows; new ones are the mean of the others.

    An untrained token is then generated as rarely as the average token.
    """
    missing = rows - len(weight)
    if missing <= 0:
        return weight
    mean = weight.float().mean(0, keepdim=True).to(weight.dtype)
    return torch.cat([weight, mean.expand(missing, -1)])


def _prefixed(prefix: str, module: nn.Module) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": tensor for name, tensor in module.state_dict().items()}
