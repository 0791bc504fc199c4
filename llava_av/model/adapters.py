"""LoRA and DoRA adapters, in the format of peft, for parts of a base model.

An adapter keeps the base model's own classes and names: `peft` only puts its matrices beside the linear
layers that the recipe names. A folder with an adapter holds `adapter_config.json` and
`adapter_model.safetensors`, which `peft.PeftModel` reads too. Weights that were trained fully, such as
connectors, are in the same file under their names in the base model.

`peft` is imported only if there is an adapter, and the schema of its config only if a folder is read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from llava_av.errors import UserError
from llava_av.model.files.folder_checks import require_whole_shard
from llava_av.model.files.reading import ModelFilesError, require_none
from llava_av.model.modeling import LlavaAvForConditionalGeneration
from llava_av.model.parts import train_only, trainable_parts
from llava_av.vocabulary import PART_NAMES, PartName

if TYPE_CHECKING:
    from llava_av.recipe import AdapterRecipe, Recipe

__all__ = [
    "ADAPTER_CONFIG",
    "adapted_weights",
    "fresh_adapter_weight",
    "load_adapter",
    "merge_adapter",
    "save_adapter",
    "set_trained_weights",
]

ADAPTER_CONFIG = "adapter_config.json"
"""File that only folders with an adapter have."""
_WEIGHTS = "adapter_model.safetensors"
_NAME = "default"
# peft's name of the model within its own wrapper.
_PREFIX = "base_model.model."


def set_trained_weights(model: LlavaAvForConditionalGeneration, recipe: Recipe) -> None:
    """Freeze what the recipe does not train, and put fresh adapters beside the layers that it adapts.

    Args:
        model: Model of the recipe; may be on the meta device.
        recipe: Recipe; its seed gives the weights of the adapters.

    Raises:
        UserError: The model lacks a part or a layer to adapt, or all parts to train; names those that it has.
    """
    adapter, trained = recipe.model.adapter, recipe.model.trainable_parts
    if adapter is None:
        train_only(model, trained)
        if not adapted_weights(model):
            found = set(trainable_parts(model).values())
            raise UserError(
                f"model.trainable_parts has only {', '.join(trained)}, which the model lacks: name some of "
                f"{', '.join(part for part in PART_NAMES if part in found)}"
            )
        return
    train_only(model, (*trained, *adapter.targets))
    part_of = trainable_parts(model)
    targets = _targets(model, adapter, part_of)
    whole = [name for name in adapted_weights(model) if part_of[name] in trained]
    settings = {"r": adapter.rank, "lora_alpha": adapter.alpha, "lora_dropout": adapter.dropout}
    _inject(model, targets, use_dora=adapter.dora, **settings)
    # peft freezes everything else.
    weights = dict(model.named_parameters())
    for name in whole:
        weights[name].requires_grad_(True)
    for name, weight in weights.items():
        fresh = None if weight.is_meta else fresh_adapter_weight(name, weight.shape, recipe.seed)
        if fresh is not None:
            weight.data.copy_(fresh)


def fresh_adapter_weight(name: str, shape: torch.Size, seed: int) -> Tensor | None:
    """Return the initial value of an adapter's matrix; None for any other weight.

    As in peft, the first matrix is uniform with a bound of one over the root of its width, and the second is
    zero. Each depends only on seed and name, so a process can compute any of them alone.
    """
    if ".lora_B." in name:
        return torch.zeros(shape)
    if ".lora_A." not in name:
        return None
    of_name = int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[:8], "little", signed=True)
    bound = shape[1] ** -0.5
    generator = torch.Generator().manual_seed(of_name)
    return torch.empty(shape).uniform_(-bound, bound, generator=generator)


def adapted_weights(model: nn.Module) -> list[str]:
    """Return the names of the weights that a folder with the adapter holds: those that are trained."""
    return [name for name, weight in model.named_parameters() if weight.requires_grad]


def save_adapter(
    folder: Path, model: LlavaAvForConditionalGeneration, weights: Mapping[str, Tensor], base: str
) -> None:
    """Write the adapter of a model and the weights that were trained fully.

    Args:
        folder: Folder to write to.
        model: Model with an adapter.
        weights: Weights by name, at least those of `adapted_weights`.
        base: Address of the base model, for the readers of the folder.
    """
    from peft import get_peft_model_state_dict

    trained = {name: weights[name] for name in adapted_weights(model)}
    own: dict[str, Tensor] = get_peft_model_state_dict(
        model, state_dict=trained, adapter_name=_NAME, save_embedding_layers=False
    )
    whole = {name: one for name, one in trained.items() if not _is_adapter(name)}
    found = {f"{_PREFIX}{name}": one.contiguous() for name, one in (own | whole).items()}
    save_file(found, folder / _WEIGHTS, metadata={"format": "pt"})
    config: Any = model.peft_config[_NAME]
    config.base_model_name_or_path, config.inference_mode = base, True
    config.save_pretrained(folder)


def load_adapter(model: LlavaAvForConditionalGeneration, folder: Path) -> None:
    """Put the adapter of a folder on its base model, with all weights that the folder has.

    Raises:
        ModelFilesError: The files are damaged, or belong to another base model.
    """
    from peft import set_peft_model_state_dict

    from llava_av.model.files.adapter_config import read_adapter_config

    config = read_adapter_config(folder / ADAPTER_CONFIG)
    layers = {name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    missing = [name for name in config.target_modules if not _matching(name, layers)]
    require_none("adapted but missing in the base model of", folder, missing)
    path = folder / _WEIGHTS
    if not path.is_file():
        raise ModelFilesError(f"{folder} has no {_WEIGHTS}: copy the whole folder of the adapter again")
    require_whole_shard(path)
    state = load_file(path)
    _inject(model, config.target_modules, **config.model_dump(exclude={"peft_type", "target_modules"}))
    expected = [name for name, _ in model.named_parameters() if _is_adapter(name)]
    try:
        result: Any = set_peft_model_state_dict(model, state, adapter_name=_NAME)
    except (RuntimeError, KeyError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelFilesError(f"{folder} does not fit its base model: {reason}; train again") from error
    require_none("missing in", folder, set(expected) & set(result.missing_keys))
    require_none("left over in", folder, result.unexpected_keys)
    model.requires_grad_(False)


def merge_adapter(model: LlavaAvForConditionalGeneration) -> None:
    """Merge the adapter into the weights of its layers, and replace them by plain layers.

    Raises:
        UserError: A merged weight would not be finite.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, module in list(model.named_modules()):
        if isinstance(module, BaseTunerLayer):
            layer: Any = module
            try:
                layer.merge(safe_merge=True)
            except ValueError as error:
                raise UserError(
                    f"layer {name} cannot be merged: {error}; use an earlier checkpoint"
                ) from error
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, layer.get_base_layer())
    del model.peft_config


def _inject(model: LlavaAvForConditionalGeneration, targets: Sequence[str], **settings: Any) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    inject_adapter_in_model(LoraConfig(target_modules=list(targets), **settings), model, _NAME)


def _is_adapter(name: str) -> bool:
    return ".lora_" in name


def _targets(
    model: LlavaAvForConditionalGeneration, adapter: AdapterRecipe, part_of: Mapping[str, PartName]
) -> list[str]:
    """Return the names of the layers to adapt."""
    found = []
    for part, names in adapter.targets.items():
        layers = dict(_linear_layers(model, part, part_of))
        if not layers:
            raise UserError(f"model.adapter.targets has {part}, but the model has no such part: remove it")
        if isinstance(names, str):
            found += [layer for layer, is_in_block in layers.items() if is_in_block]
            continue
        for name in names:
            matching = _matching(name, layers)
            if not matching:
                known = ", ".join(sorted({layer.rpartition(".")[2] for layer in layers}))
                raise UserError(
                    f"model.adapter.targets.{part}: no linear layer is called {name!r}: use {known}"
                )
            found += matching
    return sorted(set(found))


def _matching(name: str, layers: Any) -> list[str]:
    return [layer for layer in layers if f".{layer}".endswith(f".{name}")]


def _linear_layers(
    model: LlavaAvForConditionalGeneration, part: str, part_of: Mapping[str, PartName]
) -> Iterator[tuple[str, bool]]:
    """Yield the linear layers of a part that outputs depend on, and whether each is in a stack of blocks."""
    stacks = [f"{name}." for name, module in model.named_modules() if isinstance(module, nn.ModuleList)]
    for name, module in model.named_modules():
        is_used = isinstance(module, nn.Linear) and module.weight.requires_grad
        if is_used and part_of.get(f"{name}.weight") == part:
            yield name, name.startswith(tuple(stacks))
