"""Memory of one GPU and size of a checkpoint, by engine and ZeRO stage.

| | weights | gradients | optimizer states | buffers |
| --- | --- | --- | --- | --- |
| `torch` | all | trained | moments | copy of the gradients, with several GPUs |
| ZeRO 1 | all | trained + trained / GPUs | (float32 copy + moments) / GPUs | reduction |
| ZeRO 2 | all | trained / GPUs | (float32 copy + moments) / GPUs | reduction |
| ZeRO 3 | all / GPUs | trained / GPUs | (float32 copy + moments) / GPUs | reduction, gathered weights |

This is what the engines in `llava_av.training.engines` allocate. DistributedDataParallel keeps a copy of the
gradients in its buckets. DeepSpeed keeps a float32 copy of the trained weights, even if these are float32.
"""

from dataclasses import dataclass

from llava_av.frozen import FrozenModel
from llava_av.recipe import TrainingRecipe
from llava_av.workflows.estimate.meta_model import ModelSize

__all__ = ["FLOAT32", "BytesPerParameter", "GpuMemory", "checkpoint_bytes", "gpu_memory"]


@dataclass(frozen=True, kw_only=True)
class BytesPerParameter:
    """Bytes of what training keeps for each parameter."""

    weight: int
    """Weight of the forward pass."""
    gradient: int
    """Gradient."""
    copy: int
    """Copy of a weight that DeepSpeed's optimizer updates."""
    moments: int
    """Both moments of AdamW."""


FLOAT32 = BytesPerParameter(weight=4, gradient=4, copy=4, moments=8)
"""Bytes per parameter of float32 training, the only precision of the engines."""
# AdamW counts the steps of each tensor in a float32 number; DeepSpeed joins the tensors of a group.
_STEP_BYTES = 4
# Defaults of DeepSpeed, in elements: reduce_bucket_size and stage3_max_live_parameters.
_REDUCE_BUCKET = 500_000_000
_MAX_LIVE = 1_000_000_000


class GpuMemory(FrozenModel):
    """Memory of one GPU in bytes when the backward pass of a step begins."""

    weights: int
    gradients: int
    optimizer_states: int
    activations: int
    buffers: int
    """Buffers for communication, and under ZeRO 3 gathered weights."""
    total: int
    """Sum of all above."""
    start: int
    """Whole model, which each GPU holds before ZeRO 3 shards it."""

    @property
    def peak(self) -> int:
        """Return the larger of a step's memory and that of the start."""
        return max(self.total, self.start)


def gpu_memory(size: ModelSize, training: TrainingRecipe, activations: int) -> GpuMemory:
    """Return the memory of each of `training.num_processes` GPUs.

    Args:
        size: Parameters of the model.
        training: Engine, ZeRO stage and number of GPUs.
        activations: Bytes of activations.
    """
    per, gpus = FLOAT32, training.num_processes
    if training.engine == "torch":
        state = {
            "weights": per.weight * size.parameters,
            "gradients": per.gradient * size.trained,
            "optimizer_states": per.moments * size.trained + _STEP_BYTES * size.trained_tensors,
            "buffers": per.gradient * size.trained if gpus > 1 else 0,
        }
    else:
        state = _zero_state(size, training.zero_stage, gpus)
    return GpuMemory(
        **state,
        activations=activations,
        total=sum(state.values()) + activations,
        start=per.weight * size.parameters,
    )


def _zero_state(size: ModelSize, stage: int, gpus: int) -> dict[str, int]:
    per, share = FLOAT32, -(-size.trained // gpus)
    buffers = per.gradient * _REDUCE_BUCKET
    if stage == 3:
        # The bucket is copied into the shards of all GPUs before it is reduced.
        buffers += per.gradient * min(_REDUCE_BUCKET, size.trained)
        buffers += per.weight * min(size.parameters, _MAX_LIVE + size.largest)
    return {
        "weights": per.weight * (-(-size.parameters // gpus) if stage == 3 else size.parameters),
        "gradients": per.gradient * (share + (size.trained if stage == 1 else 0)),
        "optimizer_states": (per.copy + per.moments) * share,
        "buffers": buffers,
    }


def checkpoint_bytes(size: ModelSize, training: TrainingRecipe) -> int:
    """Return the bytes of a checkpoint's weights and optimizer states, in `model/` and `engine/`.

    Tokenizer, random states and names of tensors are left out: they take some kilobytes for each tensor.
    """
    per, frozen = FLOAT32, size.parameters - size.trained
    folder = per.weight * size.parameters
    if training.engine == "torch":
        return folder + per.weight * size.parameters + per.moments * size.trained
    # ZeRO 2 and 3 write frozen weights as fragments, ZeRO 1 and 2 the whole model.
    weights = frozen if training.zero_stage == 3 else size.parameters
    weights += frozen if training.zero_stage == 2 else 0
    return folder + per.weight * weights + (per.copy + per.moments) * size.trained
