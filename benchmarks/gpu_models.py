"""Models of the benchmark on a GPU: the shapes of shipped recipes with random weights, and their settings.

The settings have the names and values of a recipe's sections, but not their schema, which needs pydantic. A
test compares them with the recipes.
"""

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from llava_av.model import LlavaAvConfig, LlavaAvForConditionalGeneration
from llava_av.model.adapters import set_trained_weights
from llava_av.model.parts import recompute_activations
from llava_av.model.sequence.tokenizer import PLACEHOLDERS
from llava_av.vocabulary import PART_NAMES

__all__ = ["SHAPES", "Shape", "build_model", "config_of"]

_BASES = Path(__file__).parents[1] / "recipes/bases"
_TOWERS = ("vision_tower", "audio_tower")
_SMALL: Mapping[str, Mapping[str, Any]] = {
    "vision_config": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 56,
    },
    "audio_config": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "conv_dim": [16] * 7,
        "num_conv_pos_embeddings": 16,
        "num_conv_pos_embedding_groups": 4,
    },
    "text_config": {
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "layer_types": None,
        "vocab_size": 2_000,
    },
}


@dataclass(frozen=True, kw_only=True)
class AdapterSettings:
    """Section `model.adapter`."""

    rank: int = 64
    alpha: float = 128.0
    dropout: float = 0.05
    dora: bool = False
    targets: Mapping[str, str] = field(default_factory=lambda: {"language": "all-linear"})


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """Section `model`."""

    trainable_parts: tuple[str, ...] = PART_NAMES
    adapter: AdapterSettings | None = None


@dataclass(frozen=True, kw_only=True)
class PartSettings:
    """Learning rate and weight decay of a part of the model."""

    learning_rate: float
    weight_decay: float


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """Section `optimizer`."""

    learning_rate: float
    min_lr_ratio: float = 0.1
    warmup_steps: int = 150
    decay_ratio: float = 1.0
    weight_decay: float = 0.0
    parts: Mapping[str, PartSettings] = field(default_factory=dict)
    beta1: float = 0.9
    beta2: float = 0.999
    max_grad_norm: float = 1.0

    def of_part(self, part: str) -> PartSettings:
        """Return the settings of a part."""
        shared = PartSettings(learning_rate=self.learning_rate, weight_decay=self.weight_decay)
        return self.parts.get(part, shared)


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """Section `training`."""

    pack_length: int = 8_192
    micro_batch_tokens: int = 8_192
    global_batch_size: int = 32
    steps: int = 6_000
    max_non_finite_steps: int = 1
    engine: str = "torch"
    precision: str = "bf16"
    activation_checkpointing: tuple[str, ...] = (*_TOWERS, "language")


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A model and the settings that it is trained with."""

    base: str
    """Folder in `recipes/bases` with the config."""
    recipe: str
    """Recipe that the settings are taken from."""
    model: ModelSettings
    optimizer: OptimizerSettings
    training: TrainingSettings = TrainingSettings()
    seed: int = 0

    def with_rows(self, pack_length: int, **changes: Any) -> "Shape":
        """Return the shape with packed rows of another length, one row in each micro-batch."""
        training = replace(self.training, pack_length=pack_length, micro_batch_tokens=pack_length, **changes)
        return replace(self, training=training)


_TOWER_RATE = PartSettings(learning_rate=2e-6, weight_decay=0.0)
SHAPES: Mapping[str, Shape] = {
    "7B, adapters": Shape(
        base="onevision-7b",
        recipe="onevision-7b-lora",
        model=ModelSettings(
            trainable_parts=("vision_connector", "audio_connector"), adapter=AdapterSettings()
        ),
        optimizer=OptimizerSettings(learning_rate=1e-4),
    ),
    "0.5B, all parts": Shape(
        base="onevision-0.5b",
        recipe="onevision-0.5b",
        model=ModelSettings(),
        optimizer=OptimizerSettings(learning_rate=1e-5, parts=dict.fromkeys(_TOWERS, _TOWER_RATE)),
    ),
}
"""Models by name."""


def config_of(base: str, tokenizer: PreTrainedTokenizerBase, *, small: bool) -> LlavaAvConfig:
    """Return the config of a base model; `small` makes each of its parts tiny.

    Frames come at the model's own size, so that no image processor is needed.
    """
    fields = json.loads((_BASES / base / "config.json").read_text(encoding="utf-8"))
    if small:
        fields |= {name: fields[name] | changes for name, changes in _SMALL.items()}
        fields["frame_size"] = _SMALL["vision_config"]["image_size"]
    vocabulary = tokenizer.get_vocab()
    fields |= {f"{modality}_token_id": vocabulary[token] for modality, token in PLACEHOLDERS.items()}
    return LlavaAvConfig.from_fields(fields | {"resized_by": "reader"})


def build_model(shape: Shape, config: LlavaAvConfig, device: torch.device) -> LlavaAvForConditionalGeneration:
    """Build a model with random weights on a device, in float32; weights below adapters are in bfloat16."""
    dtype = torch.float32 if shape.model.adapter is None else torch.bfloat16
    torch.manual_seed(shape.seed)
    with torch.device(device):
        build: Any = LlavaAvForConditionalGeneration._from_config
        # A copy, as models of one config share its attention.
        model: LlavaAvForConditionalGeneration = build(copy.deepcopy(config), dtype=dtype)
    settings: Any = shape
    set_trained_weights(model, settings)
    for weight in model.parameters():
        weight.data = weight.data.to(torch.float32 if weight.requires_grad else dtype)
    recompute_activations(model, shape.training.activation_checkpointing)
    return model.train()
