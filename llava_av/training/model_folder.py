"""Folder of a trained model in the format of Hugging Face: a whole model, or an adapter of a base model."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from llava_av.checkpoints import AdapterBase
from llava_av.model import LlavaAvForConditionalGeneration, LlavaAvProcessor
from llava_av.model.adapters import adapted_weights, save_adapter
from llava_av.model.loading.writing import SHARD_SIZE
from llava_av.recipe import Recipe
from llava_av.training.engines import compute_dtype

__all__ = ["saved_names", "write_model_folder"]


def saved_names(model: LlavaAvForConditionalGeneration, recipe: Recipe) -> frozenset[str] | None:
    """Return the names of the weights that the model's folder holds; None for all."""
    return None if recipe.model.adapter is None else frozenset(adapted_weights(model))


def write_model_folder(
    folder: Path,
    model: LlavaAvForConditionalGeneration,
    processor: LlavaAvProcessor,
    recipe: Recipe,
    weights: Mapping[str, Tensor],
) -> None:
    """Write a model's folder in the precision that the model computes with.

    With `model.adapter`, the folder has the adapter, the fully trained weights, and address and
    digest of the base model.

    Args:
        folder: Folder to create.
        model: Model, whose own weights may be sharded.
        processor: Processor of the model.
        recipe: Recipe of the training.
        weights: Whole weights by name, at least those that the folder holds.
    """
    dtype = compute_dtype(recipe.training.precision)
    weights = {name: one.to(dtype) if one.is_floating_point() else one for name, one in weights.items()}
    base, digest = recipe.model.base, recipe.model.base_digest
    if recipe.model.adapter is None:
        model.save_pretrained(folder, state_dict=weights, max_shard_size=SHARD_SIZE)
    else:
        assert base is not None, "the recipe of an adapter has a base"
        assert digest is not None, "the digest is set when the run is opened"
        folder.mkdir(parents=True)
        save_adapter(folder, model, weights, base)
        AdapterBase(address=base, digest=digest).write(folder)
    # transformers has noted the dtype of the weights in memory, which are the optimizer's.
    model.config.dtype = dtype
    model.config.save_pretrained(folder)
    processor.save_pretrained(folder)
