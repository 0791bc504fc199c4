"""Fresh model of a training of several processes on a node: one of them builds it, and all read their shards.

Random numbers of a model are drawn in the order of its weights, so a process cannot draw those of its shard
alone. If each process built the whole model, a node would hold as many copies as it has processes. Instead,
one process builds it and writes it to a file, from which the engine reads as from a base model.
"""

import gc
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from torch import distributed
from transformers import PretrainedConfig

from llava_av.model import LlavaAvForConditionalGeneration, LlavaAvProcessor, fresh_model
from llava_av.model.loading.fresh_model import fresh_processor
from llava_av.model.loading.saved_model import deferred_model
from llava_av.recipe import Recipe
from llava_av.training.host_memory import return_freed_memory

__all__ = ["deferred_fresh_model", "forget_fresh_weights", "has_several_local_processes"]

_MOST_BYTES_OF_A_FILE = "64MB"
"""Bound of the copy that writing a file makes."""


def has_several_local_processes() -> bool:
    """Return whether torchrun started several processes on this node."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) > 1


def deferred_fresh_model(
    recipe: Recipe, texts: Callable[[], Iterable[str]], work: Path
) -> tuple[LlavaAvForConditionalGeneration, LlavaAvProcessor]:
    """Return the model and processor of `fresh_model`; the engine reads the weights.

    All processes call it together, and `forget_fresh_weights` when the engine has read.

    Args:
        recipe: Recipe of the training.
        texts: Returns the texts of the training.
        work: Local folder for files.
    """
    folder = _folder(work)
    processor = _write(recipe, texts(), folder) if _is_local_rank_zero() else fresh_processor(recipe, texts())
    distributed.barrier()
    model = deferred_model(recipe, processor.config, folder)
    if model is None:
        # Files of some architectures have other names than the weights.
        return fresh_model(recipe, texts())
    _forget_dtype(model.config)
    return model, processor


def forget_fresh_weights(work: Path) -> None:
    """Delete the files of `deferred_fresh_model`, if it was called; all processes call this together."""
    distributed.barrier()
    if _is_local_rank_zero():
        shutil.rmtree(_folder(work), ignore_errors=True)


def _write(recipe: Recipe, texts: Iterable[str], folder: Path) -> LlavaAvProcessor:
    """Write the weights, and free their memory."""
    shutil.rmtree(folder, ignore_errors=True)
    model, processor = fresh_model(recipe, texts)
    model.save_pretrained(folder, max_shard_size=_MOST_BYTES_OF_A_FILE)
    del model
    # A model refers to itself.
    gc.collect()
    return_freed_memory()
    return processor


def _forget_dtype(config: PretrainedConfig) -> None:
    """Leave the config as that of a model that no file gave its type, so that its folder is the same."""
    config.dtype = None
    for name in config.sub_configs:
        part = getattr(config, name, None)
        if part is not None:
            _forget_dtype(part)


def _folder(work: Path) -> Path:
    # Nodes may share a disk.
    return work / f"fresh-{os.environ.get('GROUP_RANK', '0')}"


def _is_local_rank_zero() -> bool:
    return os.environ.get("LOCAL_RANK", "0") == "0"
