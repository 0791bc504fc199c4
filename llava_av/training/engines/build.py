"""Joining the processes of a job, and building the engine that the recipe names."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import torch
from torch import distributed, nn

from llava_av.processes.heartbeat import COLLECTIVE_LIMIT, Limits
from llava_av.processes.joining import joining
from llava_av.training.engines.deepspeed_engine import DeepSpeedEngine, import_deepspeed
from llava_av.training.engines.interface import Engine
from llava_av.training.engines.torch_engine import TorchEngine
from llava_av.training.host_memory import keep_freed_memory

if TYPE_CHECKING:
    from llava_av.recipe import Recipe

__all__ = ["build_engine", "reads_weights", "start_processes"]


def start_processes(engine: str) -> tuple[int, int]:
    """Join the processes that torchrun started.

    Returns:
        Rank of this process and number of processes.

    Raises:
        EngineError: The engine is `deepspeed`, and DeepSpeed is not installed.
    """
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    # TensorFloat-32 where a GPU has it: its products lose less than bfloat16, which most trainings use.
    torch.set_float32_matmul_precision("high")
    if not torch.cuda.is_available():
        keep_freed_memory()
    else:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    with joining(Limits.from_env()):
        if engine == "deepspeed":
            import_deepspeed().init_distributed(backend, verbose=False, timeout=COLLECTIVE_LIMIT)
        else:
            distributed.init_process_group(backend, timeout=COLLECTIVE_LIMIT)
    return distributed.get_rank(), distributed.get_world_size()


def reads_weights(recipe: Recipe, processes: int) -> bool:
    """Return whether the engine that the recipe names reads a base model's weights itself, one at a time.

    Plain PyTorch in a single process gets the model in memory.
    """
    training = recipe.training
    return training.engine == "deepspeed" or processes > 1 or training.precision == "bf16"


def build_engine(model: nn.Module, recipe: Recipe) -> Engine:
    """Return the engine that the recipe names, around the model."""
    engine = DeepSpeedEngine if recipe.training.engine == "deepspeed" else TorchEngine
    return engine(model, recipe)
