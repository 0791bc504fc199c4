"""PyTorch's own sharding (FSDP2); a single process in float32 trains the plain model.

Each process keeps a shard of every weight, of its gradient and of its optimizer state, in float32. A large
block of the model gathers its weights, in the precision of the recipe, when it is called, in all processes
together. All processes must therefore call the same modules in the same order, whatever their samples hold.

The state is saved as safetensors by PyTorch's distributed checkpoints: each process writes its own shards,
and any number of processes can read them.
"""

import math
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from llava_av.recipe import Recipe
from llava_av.training.engines.interface import equalize_calls, local_part
from llava_av.training.optimizer import build_optimizer, prepare_step
from llava_av.training.safe_loading import require_safetensors

__all__ = ["TorchEngine", "sharded_blocks"]

_WEIGHT = "weight"

MIN_BLOCK_PARAMETERS = 2**19
"""Parameters up to which gathering a block by itself takes longer than the memory is worth."""


class TorchEngine:
    """`Engine` of plain PyTorch, sharded over several processes."""

    def __init__(self, model: nn.Module, recipe: Recipe) -> None:
        self._max_grad_norm = recipe.optimizer.max_grad_norm
        self.model = model
        if _several_processes() or recipe.training.precision == "bf16":
            _shard(model, recipe.training.precision)
        self._optimizer = build_optimizer(model, recipe.optimizer)

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """See `Engine`; each micro-batch reduces its gradients, as whole ones may not fit into memory."""
        loss.backward()

    def step(self, learning_rate: float, unused: Collection[str] = ()) -> float:
        """See `Engine`."""
        clipped = nn.utils.clip_grad_norm_(self.model.parameters(), self._max_grad_norm)
        norm = float(clipped.full_tensor() if isinstance(clipped, DTensor) else clipped)
        prepare_step(self._optimizer, learning_rate, unused)
        if math.isfinite(norm):
            self._optimizer.step()
        self._optimizer.zero_grad()
        return norm

    def optimizer_state(self) -> Any:
        """See `Engine`."""
        return {name: local_part(value) for name, value in self._moments()}

    def weights(self) -> dict[str, Tensor]:
        """See `Engine`; gather one weight at a time, as all may not fit into the memory of one device."""
        is_rank_zero = not _several_processes() or distributed.get_rank() == 0
        whole: dict[str, Tensor] = {}
        for name, tensor in self.model.state_dict().items():
            gathered = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
            if is_rank_zero:
                whole[name] = gathered.cpu() if isinstance(tensor, DTensor) else gathered
        return whole

    def save(self, folder: Path) -> None:
        """See `Engine`."""
        save(
            self._state(),
            storage_writer=HuggingFaceStorageWriter(str(folder), save_distributed=True),
            no_dist=not distributed.is_initialized(),
        )

    def load(self, folder: Path) -> None:
        """See `Engine`; the state may have been saved by any number of processes."""
        for path in sorted(folder.iterdir()):
            require_safetensors(path)
        reader = HuggingFaceStorageReader(str(folder))
        saved = reader.read_metadata().state_dict_metadata
        self._optimizer.state.clear()
        for name, weight in self._trained():
            if f"step.{name}" in saved:
                moments = {kind: torch.zeros_like(weight) for kind in ("exp_avg", "exp_avg_sq")}
                self._optimizer.state[weight] = {"step": torch.tensor(0.0), **moments}
        try:
            load(self._state(), storage_reader=reader, no_dist=not distributed.is_initialized())
        except CheckpointException as error:
            # It is no Exception, and holds one for each process that failed.
            found = next(iter(error.failures.values()))[0]
            raise ValueError(str(found)) from error

    def _state(self) -> dict[str, Tensor]:
        """Return all state by name; weights that are tied occur once."""
        by_tensor = {id(one): (name, one) for name, one in self.model.state_dict(keep_vars=True).items()}
        weights = {f"{_WEIGHT}.{name}": one.detach() for name, one in by_tensor.values()}
        return weights | dict(self._moments())

    def _moments(self) -> Iterator[tuple[str, Tensor]]:
        for name, weight in self._trained():
            for kind, value in self._optimizer.state.get(weight, {}).items():
                yield f"{kind}.{name}", value

    def _trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        return ((name, one) for name, one in self.model.named_parameters() if one.requires_grad)


def _shard(model: nn.Module, precision: str) -> None:
    """Shard each block of a stack of equal layers by itself, and all other weights together."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    mesh = init_device_mesh(device, (distributed.get_world_size(),))
    compute = torch.bfloat16 if precision == "bf16" else torch.float32
    # A single gradient in float32: its mean over many processes would lose small values in 16 bits.
    policy = MixedPrecisionPolicy(param_dtype=compute, reduce_dtype=torch.float32)
    for block in sharded_blocks(model):
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)
    equalize_calls(model)


def sharded_blocks(model: nn.Module) -> list[nn.Module]:
    """Return the blocks that are sharded by themselves: the large ones in a stack of layers."""
    stacks = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    return [
        block
        for stack in stacks
        for block in stack
        if sum(weight.numel() for weight in block.parameters()) > MIN_BLOCK_PARAMETERS
    ]


def _several_processes() -> bool:
    return distributed.is_initialized() and distributed.get_world_size() > 1
