"""DeepSpeed ZeRO, stages 1 to 3.

Stage 3 keeps a shard of each weight in each process and gathers a module's weights when the module is called,
in all processes together. All processes must therefore call the same modules in the same order, whatever
their samples hold.
"""

import os
import warnings
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn

from llava_av.recipe import Recipe
from llava_av.training.engines.interface import EngineError, equalize_calls, updated_states
from llava_av.training.optimizer import build_optimizer, prepare_step
from llava_av.training.safe_loading import DataOnlyFiles

__all__ = ["DeepSpeedEngine", "import_deepspeed"]

_TAG = "engine"


class DeepSpeedEngine:
    """`Engine` around DeepSpeed, which shards optimizer state, gradients and weights by stage."""

    def __init__(self, model: nn.Module, recipe: Recipe) -> None:
        self._module = model
        if recipe.training.zero_stage == 3:
            equalize_calls(model)
        optimizer = build_optimizer(model, recipe.optimizer)
        self.model, self._optimizer, _, _ = import_deepspeed().initialize(
            model=model, optimizer=optimizer, config=_config(recipe)
        )
        if recipe.training.zero_stage == 3:
            _clear_padding(self._optimizer)
        self.model.checkpoint_engine = DataOnlyFiles(self.model.checkpoint_engine, _deepspeed_classes())

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """See `Engine`."""
        self.model.set_gradient_accumulation_boundary(last)
        self.model.backward(loss)

    def step(self, learning_rate: float, unused: Collection[str] = ()) -> float:
        """See `Engine`."""
        prepare_step(self._optimizer, learning_rate, unused)
        # DeepSpeed skips the update if the norm is not finite, and returns infinity.
        self.model.step()
        return float(self.model.get_global_grad_norm())

    def optimizer_state(self) -> Any:
        """See `Engine`."""
        state = self._optimizer.state_dict()
        if "fp32_flat_groups" in state:
            return {
                "state": updated_states(state["optimizer_state_dict"]["state"]),
                "fp32": state["fp32_flat_groups"],
            }
        return {
            "state": updated_states(state["base_optimizer_state"]["state"]),
            "fp32": state["single_partition_of_fp32_groups"],
        }

    def weights(self) -> dict[str, Tensor]:
        """See `Engine`; gather one weight at a time, as all may not fit into the memory of one device."""
        gathered = import_deepspeed().zero.GatheredParameters
        is_rank_zero = distributed.get_rank() == 0
        whole: dict[str, Tensor] = {}
        for name, tensor in self._module.state_dict(keep_vars=True).items():
            if not hasattr(tensor, "ds_id"):
                whole[name] = tensor.detach()
                continue
            with gathered([tensor]):
                if is_rank_zero:
                    whole[name] = tensor.detach().cpu().clone()
        return whole

    def save(self, folder: Path) -> None:
        """See `Engine`."""
        self.model.save_checkpoint(str(folder), tag=_TAG, save_latest=False)
        if distributed.get_rank() == 0:
            # A checkpoint is data: someone may later run a script from a bucket, whoever wrote it.
            for script in folder.glob("*.py"):
                script.unlink()

    def load(self, folder: Path) -> None:
        """See `Engine`."""
        loaded, _ = self.model.load_checkpoint(str(folder), tag=_TAG)
        if loaded is None:
            raise EngineError(
                f"DeepSpeed found no checkpoint in {folder}: delete the checkpoint and train again"
            )


def _clear_padding(optimizer: Any) -> None:
    """Set the ends of the last shards that no weight fills to zero, as DeepSpeed leaves them undefined.

    Checks for finite values and digests cover whole shards.
    """
    rank = distributed.get_rank()
    for weights, flat in zip(optimizer.fp16_groups, optimizer.fp32_partitioned_groups_flat, strict=True):
        start = 0
        for weight in weights:
            size = weight.ds_tensor.ds_numel
            filled = max(0, min(size, weight.ds_numel - rank * size))
            weight.ds_tensor.data.view(-1)[filled:] = 0
            flat.data[start + filled : start + size] = 0
            start += size


def _config(recipe: Recipe) -> dict[str, Any]:
    stage = recipe.training.zero_stage
    bf16 = recipe.training.precision == "bf16"
    return {
        # DeepSpeed counts with these numbers alone: the loss is a mean already, and `backward` says which
        # micro-batch is the last.
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": recipe.optimizer.max_grad_norm,
        "zero_optimization": {"stage": stage, "overlap_comm": False},
        # The optimizer keeps its own weights in float32.
        "bf16": {"enabled": bf16},
        # Float32 gradients in stage 1 would need DeepSpeed's optimizer that applies infinite ones too.
        "data_types": {"grad_accum_dtype": "bf16" if bf16 and stage == 1 else "fp32"},
        "steps_per_print": 10**9,
    }


def _deepspeed_classes() -> list[type]:
    """Return the classes whose instances DeepSpeed's checkpoints hold: two of numbers, one enumeration."""
    from deepspeed.runtime.fp16.loss_scaler import LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    return [LossScaler, ZeroStageEnum, fragment_address]


def import_deepspeed() -> Any:
    """Import DeepSpeed, for the CPU if there is no GPU.

    Raises:
        EngineError: DeepSpeed is not installed.
    """
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    try:
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
