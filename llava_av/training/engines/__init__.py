"""Engines, which turn a loss into updated weights, over one or several processes.

`interface` defines what the trainer needs of an engine. `torch_engine` is plain PyTorch, sharded over several
processes; `deepspeed_engine` is DeepSpeed ZeRO, stages 1 to 3. `deferred_weights` reads a base model's
weights into their shards. `build` joins the processes that torchrun started, and builds the engine that the
recipe names.
"""

from llava_av.training.engines.build import build_engine, reads_weights, start_processes
from llava_av.training.engines.deferred_weights import move_to
from llava_av.training.engines.interface import (
    Engine,
    EngineError,
    Fragment,
    FrozenFragment,
    compute_dtype,
    local_part,
)

__all__ = [
    "Engine",
    "EngineError",
    "Fragment",
    "FrozenFragment",
    "build_engine",
    "compute_dtype",
    "local_part",
    "move_to",
    "reads_weights",
    "start_processes",
]
