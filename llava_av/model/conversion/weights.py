"""Weights of a new model from weights that exist: every one at its place, none left over, none missing."""

from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict
from torch import Tensor, nn
from transformers import AutoConfig, AutoFeatureExtractor, PreTrainedTokenizerBase

from llava_av.model.audio.tower import load_audio_tower
from llava_av.model.configuration import LlavaAvConfig
from llava_av.model.encoders import fresh_newline, initialise
from llava_av.model.loading.model_folder import require_folder, require_processor, require_weights
from llava_av.model.loading.weight_files import ModelFilesError, pretrained, require_none
from llava_av.model.modeling import LlavaAvForConditionalGeneration
from llava_av.model.processing import LlavaAvProcessor
from llava_av.model.sequence.layout import (
    audio_downsampler_of,
    audio_projector_of,
    resampler_of,
    vision_projector_of,
)

__all__ = [
    "add_placeholders",
    "audio_settings",
    "audio_weights",
    "fresh_joints",
    "more_rows",
    "require_empty",
    "write_model",
]

_AUDIO_TOWERS = ("wav2vec2", "hubert", "wavlm", "whisper")


def audio_settings(folder: Path, *, stack: int) -> dict[str, Any]:
    """What a config says about the audio tower of a folder.

    Args:
        folder: the tower's config, weights and feature extractor.
        stack: neighbouring features that are joined into one token.

    Raises:
        ModelFilesError: a tower of an unknown kind, or no feature extractor beside it.
    """
    require_folder(folder)
    config = pretrained(AutoConfig, folder)
    if config.model_type not in _AUDIO_TOWERS:
        raise ModelFilesError(
            f"unknown audio tower {config.model_type!r} in {folder}: one of {', '.join(_AUDIO_TOWERS)}"
        )
    require_weights(folder, pickled=True)
    require_processor(folder)
    extractor = pretrained(AutoFeatureExtractor, folder)
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
    """The weights of an audio tower, by their names in the model.

    Raises:
        ModelFilesError: weights that are missing, left over or of another size, by name.
    """
    try:
        tower = load_audio_tower(folder, sample_rate_hz=config.sample_rate_hz)
    except ValueError as error:
        raise ModelFilesError(str(error)) from None
    return _prefixed("audio_tower", tower)


def fresh_joints(config: LlavaAvConfig, seed: int, there: Collection[str]) -> dict[str, Tensor]:
    """Fresh weights of the joints that have none; the same seed gives the same.

    Args:
        config: the model's.
        seed: of the weights.
        there: names of the weights that there are.
    """
    made: dict[str, Tensor] = {}

    def make(part: str, build: Callable[[], nn.Module]) -> None:
        if not any(name.startswith(f"{part}.") for name in there):
            made.update(_prefixed(part, initialise(build())))

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if config.vision_config is not None:
            make("vision_projector", lambda: vision_projector_of(config))
            make("resampler", lambda: resampler_of(config))
        if config.audio_config is not None:
            with torch.device("meta"):
                width = audio_downsampler_of(config).width_out
            make("audio_downsampler", lambda: audio_downsampler_of(config))
            make("audio_projector", lambda: audio_projector_of(config, width))
        if config.vision_config is not None and config.video_newline != "none" and "newline" not in there:
            made["newline"] = fresh_newline(config)
    return made


def add_placeholders(tokenizer: PreTrainedTokenizerBase, tokens: Iterable[str]) -> None:
    """Adds those tokens that the tokenizer does not have."""
    new = [token for token in tokens if token not in tokenizer.get_vocab()]
    tokenizer.add_tokens(new, special_tokens=True)


def more_rows(weight: Tensor, rows: int) -> Tensor:
    """`[vocabulary, width]` with at least so many rows: new ones are the mean of the others.

    A new row that no training has seen is then no likelier to be said than the average token.
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
    """Writes a model's folder.

    Args:
        target: a folder that is made, and has to be empty if it is there.
        config: the model's; says the dtype.
        weights: by their names in the model.
        processor: the model's.
        generation: transformers' generation config, if there is one.

    Raises:
        ModelFilesError: the folder holds something, or the weights are not those of the config's model.
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
    """Refuses a target that holds something.

    Raises:
        ModelFilesError: it does.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ModelFilesError(f"{target} is not empty: name a folder that is, or that is not there yet")


def _prefixed(prefix: str, module: nn.Module) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": tensor for name, tensor in module.state_dict().items()}
