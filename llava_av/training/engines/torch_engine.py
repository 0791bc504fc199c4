"""PyTorch's own sharding (FSDP2); a single process in float32 trains the plain model.

Each process keeps a shard of every weight, of its gradient and of its optimizer state, in float32. A large
block of the model gathers its weights, in the precision of the recipe, when it is called, in all processes
together. All processes must therefore call the same modules in the same order, whatever their samples hold.

A process's shard of a weight is a share of its rows, and thus a flat range of its elements.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from llava_av.training.collective import CpuGroup
from llava_av.training.engines.deferred_weights import read_shards
from llava_av.training.engines.interface import (
    MOMENTS,
    Fragment,
    FrozenFragment,
    compute_dtype,
    equalize_calls,
    local_part,
    named_state,
    own_share,
    persistent_buffers,
)
from llava_av.training.optimizer import (
    build_optimizer,
    fresh_state,
    prepare_step,
    update_if_finite,
    updated_states,
)

if TYPE_CHECKING:
    from llava_av.recipe import Recipe

__all__ = ["TorchEngine", "sharded_blocks"]

MIN_BLOCK_PARAMETERS = 2**19
"""Parameters up to which gathering a block by itself takes longer than the memory is worth."""


class TorchEngine:
    """`Engine` of plain PyTorch, sharded over several processes."""

    def __init__(self, model: nn.Module, recipe: Recipe) -> None:
        self._max_grad_norm = recipe.optimizer.max_grad_norm
        self.model = model
        self._calls: CpuGroup | None = None
        if _several_processes() or recipe.training.precision == "bf16":
            self._calls = _shard(model, recipe.training.precision)
            read_shards(model)
        self._optimizer = build_optimizer(model, recipe.optimizer)

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """See `Engine`; each micro-batch reduces its gradients, as whole ones may not fit into memory."""
        loss.backward()

    def step(self, learning_rate: float, unused: Collection[str] = ()) -> Tensor:
        """See `Engine`."""
        clipped = nn.utils.clip_grad_norm_(self.model.parameters(), self._max_grad_norm)
        norm = clipped.full_tensor() if isinstance(clipped, DTensor) else clipped
        prepare_step(self._optimizer, learning_rate, unused)
        update_if_finite(self._optimizer, norm)
        self._optimizer.zero_grad()
        return norm

    def weights(self, names: Collection[str] | None = None) -> dict[str, Tensor]:
        """See `Engine`; gather one weight at a time, as all may not fit into the memory of one device."""
        is_rank_zero = not _several_processes() or distributed.get_rank() == 0
        whole: dict[str, Tensor] = {}
        for name, first, tensor in named_state(self.model, names):
            if first in whole:
                whole[name] = whole[first]
            elif first == name:
                values = tensor.detach()
                gathered = values.full_tensor() if isinstance(values, DTensor) else values
                if is_rank_zero:
                    whole[name] = gathered.cpu() if isinstance(values, DTensor) else gathered
        return whole

    def fragments(self) -> Iterator[Fragment]:
        """See `Engine`."""
        states = updated_states(self._optimizer)
        for name, weight in self._trained():
            if local_part(weight).numel():
                state = states.get(weight, {})
                yield Fragment(
                    name=name,
                    start=_first_element(weight),
                    weight=_flat(weight),
                    moments={kind: _flat(state[kind]) for kind in MOMENTS if kind in state},
                    updates=state.get("step"),
                )

    def frozen(self) -> Iterator[FrozenFragment]:
        """See `Engine`."""
        for name, weight in self.model.named_parameters():
            if not weight.requires_grad and isinstance(weight, DTensor):
                yield FrozenFragment(name=name, start=_first_element(weight), values=_flat(weight))
            elif not weight.requires_grad:
                yield own_share(name, weight)

    def buffers(self) -> dict[str, Tensor]:
        """See `Engine`."""
        return persistent_buffers(self.model)

    def begin_load(self, updates: Mapping[str, float]) -> None:
        """See `Engine`."""
        self._optimizer.state.clear()
        for name, weight in self._trained():
            if updates[name]:
                self._optimizer.state[weight] = fresh_state(self._optimizer, weight, updates[name])

    def finish_load(self) -> None:
        """See `Engine`; the fragments are the model's weights."""

    def close(self) -> None:
        """See `Engine`."""
        if self._calls is not None:
            self._calls.close()

    def _trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        return ((name, one) for name, one in self.model.named_parameters() if one.requires_grad)


def _shard(model: nn.Module, precision: str) -> CpuGroup:
    """Shard each block of a stack of equal layers by itself, and all other weights together."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    mesh = init_device_mesh(device, (distributed.get_world_size(),))
    compute = compute_dtype(precision)
    # A single gradient in float32: its mean over many processes would lose small values in 16 bits.
    policy = MixedPrecisionPolicy(param_dtype=compute, reduce_dtype=torch.float32)
    for block in sharded_blocks(model):
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)
    return equalize_calls(model)


def sharded_blocks(model: nn.Module) -> list[nn.Module]:
    """Return the blocks that are sharded by themselves: the large ones in a stack of layers."""
    stacks = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    return [
        block
        for stack in stacks
        for block in stack
        if sum(weight.numel() for weight in block.parameters()) > MIN_BLOCK_PARAMETERS
    ]


def _flat(tensor: Tensor) -> Tensor:
    """Return this process's elements in one dimension, as a view."""
    return local_part(tensor.detach()).view(-1)


def _first_element(weight: Tensor) -> int:
    """Return the index of this process's first element in the flattened weight."""
    if not isinstance(weight, DTensor):
        return 0
    rows = weight.shape[0]
    most = -(-rows // weight.device_mesh.size())
    first_row = min(weight.device_mesh.get_local_rank() * most, rows)
    return first_row * (weight.numel() // rows)


def _several_processes() -> bool:
    return distributed.is_initialized() and distributed.get_world_size() > 1
