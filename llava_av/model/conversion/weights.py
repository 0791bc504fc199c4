"""Weights of a converted model: collected from existing ones, none left over, none missing."""

from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict
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
from llava_av.model.files.reading import ModelFilesError, read_pretrained, require_none
from llava_av.model.modeling import LlavaAvForConditionalGeneration
from llava_av.model.processing import LlavaAvProcessor

__all__ = [
    "add_placeholders",
    "add_rows",
    "audio_settings",
    "audio_weights",
    "fresh_connectors",
    "require_empty",
    "write_model",
]

_AUDIO_TOWERS = ("wav2vec2", "hubert", "wavlm", "whisper")


def audio_settings(folder: Path, *, stack: int) -> dict[str, Any]:
    """Return the fields of a config that describe the audio tower of a folder.

    Args:
        folder: folder with the tower's config, weights and feature extractor.
        stack: number of neighbouring features that become one token.

    Raises:
        ModelFilesError: the tower is unknown, or the folder has no feature extractor.
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
        ModelFilesError: weights are missing, left over or differ in shape; names them.
    """
    try:
        tower = load_audio_tower(folder, sample_rate_hz=config.sample_rate_hz)
    except ValueError as error:
        raise ModelFilesError(str(error)) from None
    return _prefixed("audio_tower", tower)


def fresh_connectors(config: LlavaAvConfig, seed: int, existing: Collection[str]) -> dict[str, Tensor]:
    """Return fresh weights for the connectors that have none; equal seeds give equal weights.

    Args:
        config: the model's.
        seed: seed of the weights.
        existing: names of the existing weights.
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


def add_placeholders(tokenizer: PreTrainedTokenizerBase, tokens: Iterable[str]) -> None:
    """Add the tokens that the tokenizer lacks."""
    new = [token for token in tokens if token not in tokenizer.get_vocab()]
    tokenizer.add_tokens(new, special_tokens=True)


def add_rows(weight: Tensor, rows: int) -> Tensor:
    """Extend `[vocabulary, width]` to at least so many rows; new ones are the mean of the others.

    An untrained token is then generated as rarely as the average token.
    """
    missing = rows - len(weight)
    if missing <= 0:
        return weight
    mean = weight.float().mean(0, keepdim=True).to(weight.dtype)
    return torch.cat([weight, mean.expand(missing, -1)])


def write_model(
    target: Path,
    config: LlavaAvConfig,
    weights: Mapping[str, Tensor],
    processor: LlavaAvProcessor,
    generation: Any = None,
) -> None:
    """Write a model's folder.

    Args:
        target: folder to create; must be empty if it exists.
        config: the model's, with the dtype of the files.
        weights: weights by their names in the model.
        processor: the model's.
        generation: transformers' generation config, if there is one.

    Raises:
        ModelFilesError: the folder is not empty, or the weights are not those of the config's model.
    """
    with torch.device("meta"):
        model = LlavaAvForConditionalGeneration(config)
    tied = set(model.all_tied_weights_keys)
    expected = {name: tensor.shape for name, tensor in model.state_dict().items() if name not in tied}
    kept = {name: tensor for name, tensor in weights.items() if name not in tied}
    require_none("missing for", target, expected.keys() - kept.keys())
    require_none("left over for", target, kept.keys() - expected.keys())
    wrong = [
        f"{name} {[*kept[name].shape]}, not {[*shape]}"
        for name, shape in expected.items()
        if kept[name].shape != shape
    ]
    require_none("of another size for", target, wrong)
    require_empty(target)
    dtype = config.dtype or torch.float32
    config.architectures = ["LlavaAvForConditionalGeneration"]
    target.mkdir(parents=True, exist_ok=True)
    save_torch_state_dict(
        {name: tensor.detach().to(dtype) for name, tensor in kept.items()}, target, metadata={"format": "pt"}
    )
    config.save_pretrained(target)
    if generation is not None:
        generation.save_pretrained(target)
    processor.save_pretrained(target)


def require_empty(target: Path) -> None:
    """Check that a target is empty or does not exist.

    Raises:
        ModelFilesError: it is not empty.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ModelFilesError(f"{target} is not empty: give an empty folder or a new name")


def _prefixed(prefix: str, module: nn.Module) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": tensor for name, tensor in module.state_dict().items()}
