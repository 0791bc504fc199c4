"""DeepSpeed ZeRO, stages 1 to 3.

Stage 3 keeps a shard of each weight in each process and gathers a module's weights when the module is called,
in all processes together. All processes must therefore call the same modules in the same order, whatever
their samples hold.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
import warnings
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, distributed, nn

from llava_av.training.engines.deferred_weights import read_partitions, read_whole
from llava_av.training.engines.interface import (
    MOMENTS,
    EngineError,
    Fragment,
    FrozenFragment,
    compute_dtype,
    equalize_calls,
    named_state,
    own_share,
    persistent_buffers,
)
from llava_av.training.optimizer import build_optimizer, fresh_state, prepare_step

if TYPE_CHECKING:
    from llava_av.recipe import Recipe

__all__ = ["REDUCE_BUCKET", "DeepSpeedEngine", "deepspeed_config", "import_deepspeed"]

REDUCE_BUCKET = 500_000_000
"""Maximum number of gradients that are reduced at once."""


class DeepSpeedEngine:
    """`Engine` around DeepSpeed, which shards optimizer state, gradients and weights by stage."""

    def __init__(self, model: nn.Module, recipe: Recipe) -> None:
        self._module = model
        trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
        deepspeed, config = import_deepspeed(), deepspeed_config(recipe, trained)
        self._stage = recipe.training.zero_stage
        dtype = compute_dtype(recipe.training.precision)
        if self._stage == 3:
            self._calls = equalize_calls(model)
            read_partitions(model, deepspeed, config, dtype)
        else:
            read_whole(model, dtype)
        self._names = {id(weight): name for name, weight in model.named_parameters()}
        optimizer = build_optimizer(model, recipe.optimizer)
        self.model, self._optimizer, _, _ = deepspeed.initialize(
            model=model, optimizer=optimizer, config=config
        )

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """See `Engine`."""
        self.model.set_gradient_accumulation_boundary(last)
        self.model.backward(loss)

    def step(self, learning_rate: float, unused: Collection[str] = ()) -> Tensor:
        """See `Engine`; DeepSpeed itself waits for the device, to read the norm."""
        prepare_step(self._optimizer, learning_rate, unused)
        # DeepSpeed skips the update if the norm is not finite, and returns infinity.
        self.model.step()
        norm = float(self.model.get_global_grad_norm())
        if not math.isfinite(norm) and self._stage < 3:
            # With an optimizer in host memory, DeepSpeed would add the next gradients to these.
            for number in self._optimizer.averaged_gradients:
                self._optimizer.averaged_gradients[number] = None
        return torch.tensor(norm, dtype=torch.float64)

    def weights(self, names: Collection[str] | None = None) -> dict[str, Tensor]:
        """See `Engine`; gather one weight at a time, as all may not fit into the memory of one device."""
        gathered = import_deepspeed().zero.GatheredParameters
        is_rank_zero = distributed.get_rank() == 0
        whole: dict[str, Tensor] = {}
        for name, first, tensor in named_state(self._module, names):
            if first in whole:
                whole[name] = whole[first]
            elif not hasattr(tensor, "ds_id"):
                whole[name] = tensor.detach()
            elif first == name:
                with gathered([tensor]):
                    if is_rank_zero:
                        whole[name] = tensor.detach().cpu().clone()
        return whole

    def fragments(self) -> Iterator[Fragment]:
        """See `Engine`."""
        for flat, weights in self._flat_weights():
            state = self._optimizer.optimizer.state.get(flat, {})
            for weight, start, at, count in self._places(weights):
                yield Fragment(
                    name=self._names[id(weight)],
                    start=start,
                    weight=flat.data[at : at + count],
                    moments={kind: state[kind][at : at + count] for kind in MOMENTS if kind in state},
                    updates=state.get("step"),
                )

    def frozen(self) -> Iterator[FrozenFragment]:
        """See `Engine`."""
        parameters: Iterator[tuple[str, Any]] = self._module.named_parameters()
        for name, weight in parameters:
            if weight.requires_grad:
                continue
            if self._stage == 3:
                start, count = _shard(weight)
                yield FrozenFragment(name=name, start=start, values=weight.ds_tensor.data.view(-1)[:count])
            else:
                yield own_share(name, weight)

    def buffers(self) -> dict[str, Tensor]:
        """See `Engine`."""
        return persistent_buffers(self._module)

    def begin_load(self, updates: Mapping[str, float]) -> None:
        """See `Engine`; the parameters of a flat weight have one number of updates, the largest of theirs."""
        optimizer = self._optimizer.optimizer
        for flat, weights in self._flat_weights():
            optimizer.state.pop(flat, None)
            most = max(updates[self._names[id(weight)]] for weight in weights)
            if most:
                optimizer.state[flat] = fresh_state(optimizer, flat, most)

    def finish_load(self) -> None:
        """See `Engine`."""
        if self._stage < 3:
            self._optimizer.update_lp_params()
            return
        self._optimizer.checkpoint_event_prologue()
        for number in range(len(self._optimizer.fp16_groups)):
            self._optimizer._reassign_or_swap_out_partitioned_parameters(number)
        self._optimizer.checkpoint_event_epilogue()

    def close(self) -> None:
        """See `Engine`."""
        self.model.destroy()
        if self._stage == 3:
            self._calls.close()
            _forget_modules()

    def _flat_weights(self) -> Iterator[tuple[Tensor, list[Any]]]:
        """Yield each flat tensor that this process updates, with the parameters that are joined in it."""
        own = self._optimizer
        if self._stage == 3:
            return zip(own.fp32_partitioned_groups_flat, own.fp16_groups, strict=True)
        return zip(own.single_partition_of_fp32_groups, own.bit16_groups, strict=True)

    def _places(self, weights: list[Any]) -> Iterator[tuple[Any, int, int, int]]:
        """Yield parameter, first element of this process, its place in the flat tensor, and length."""
        offset = 0
        for weight in weights:
            if self._stage == 3:
                start, count = _shard(weight)
                if count:
                    yield weight, start, offset, count
                offset += weight.ds_tensor.ds_numel
            elif weight._hp_mapping is not None:
                at = weight._hp_mapping.hp_fragment_address
                yield weight, weight._hp_mapping.lp_fragment_address.start, at.start, at.numel


def _forget_modules() -> None:
    """Clear the globals of DeepSpeed in which ZeRO 3 keeps modules of its engines after `destroy`."""
    runtime: Any = import_deepspeed().runtime.zero
    runtime.parameter_offload.FWD_MODULE_STACK.clear()
    for method in vars(runtime.partitioned_param_coordinator.PartitionedParameterCoordinator).values():
        # A decorator hides the cached functions.
        for cell in getattr(method, "__closure__", None) or ():
            if hasattr(cell.cell_contents, "cache_clear"):
                cell.cell_contents.cache_clear()


def _shard(weight: Any) -> tuple[int, int]:
    """Return the first element and the number of elements of this process's shard, without padding."""
    size = weight.ds_tensor.ds_numel
    start = distributed.get_rank() * size
    return start, max(0, min(size, weight.ds_numel - start))


def deepspeed_config(recipe: Recipe, trained: int) -> dict[str, Any]:
    """Return DeepSpeed's config for a recipe.

    Args:
        recipe: The recipe.
        trained: Number of trained parameters.
    """
    stage = recipe.training.zero_stage
    bf16 = recipe.training.precision == "bf16"
    has_gpu = torch.cuda.is_available()
    zero = {
        "stage": stage,
        "overlap_comm": stage == 3 and has_gpu,
        # DeepSpeed allocates the whole bucket, however few gradients there are.
        "reduce_bucket_size": min(REDUCE_BUCKET, max(1, trained)),
    }
    offload = {"device": "cpu", "pin_memory": has_gpu}
    offloads = recipe.training.offload_optimizer
    return {
        # DeepSpeed counts with these numbers alone: the loss is a mean already, and `backward` says which
        # micro-batch is the last.
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": recipe.optimizer.max_grad_norm,
        "zero_optimization": zero | ({"offload_optimizer": offload} if offloads else {}),
        # PyTorch's AdamW updates on the CPU as well; DeepSpeed's own would need a compiler at run time.
        "zero_force_ds_cpu_optimizer": False,
        # The optimizer keeps its own weights in float32.
        "bf16": {"enabled": bf16},
        # Float32 gradients in stage 1 would need DeepSpeed's optimizer that applies infinite ones too.
        "data_types": {"grad_accum_dtype": "bf16" if bf16 and stage == 1 else "fp32"},
        "steps_per_print": 10**9,
    }


def import_deepspeed() -> Any:
    """Import DeepSpeed, for the CPU if there is no GPU.

    Raises:
        EngineError: DeepSpeed is not installed.
    """
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    try:
        # DeepSpeed's autotuner, which is not used here, would spend a second of CPU time on this import.
        with contextlib.nullcontext() if "deepspeed" in sys.modules else _without_module("mlflow"):
            import deepspeed
            import deepspeed.ops
    except ImportError:
        raise EngineError(
            "DeepSpeed is not installed: use --engine torch, or install it (Linux only)"
        ) from None
    # DeepSpeed calls collectives by names that PyTorch has replaced.
    warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)
    # DeepSpeed would compile its shared-memory collective at first use; gloo gives bit-identical weights.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


@contextlib.contextmanager
def _without_module(name: str) -> Iterator[None]:
    """Let the first import of a package fail as if it were not installed, until the block ends."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[name]
