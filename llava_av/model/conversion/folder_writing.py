"""Folder of a converted model: completed, checked and written whole."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from llava_av.model.configuration import LlavaAvConfig
from llava_av.model.conversion.weights import audio_weights, fresh_connectors
from llava_av.model.files.folder_checks import require_empty
from llava_av.model.files.reading import require_none
from llava_av.model.media_processors import MediaProcessors
from llava_av.model.modeling import LlavaAvForConditionalGeneration
from llava_av.model.processing import LlavaAvProcessor

__all__ = ["complete_model"]


def complete_model(
    target: Path,
    config: LlavaAvConfig,
    weights: Mapping[str, Tensor],
    tokenizer: PreTrainedTokenizerBase,
    processors: MediaProcessors,
    *,
    audio: Path | None,
    seed: int,
    generation: Any,
) -> None:
    """Add the audio tower and fresh connectors to the weights, and write the model's folder.

    Args:
        target: Folder to create; must be empty if it exists.
        config: Config of the model.
        weights: Weights of the other parts by their names in the model.
        tokenizer: Tokenizer of the model.
        processors: Image and video processor of the model.
        audio: Folder of the audio tower; None: a model without audio.
        seed: Seed of the connectors.
        generation: Generation config of transformers.

    Raises:
        ModelFilesError: Weights are missing, left over or differ in shape; names them.
    """
    complete = dict(weights)
    if audio is not None:
        complete |= audio_weights(audio, config)
    complete |= fresh_connectors(config, seed, complete)
    processor = LlavaAvProcessor(tokenizer, config, processors.image, processors.video)
    _write_model(target, config, complete, processor, generation)


def _write_model(
    target: Path,
    config: LlavaAvConfig,
    weights: Mapping[str, Tensor],
    processor: LlavaAvProcessor,
    generation: Any,
) -> None:
    """Write a model's folder after checking that the weights are exactly those of the config's model."""
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
