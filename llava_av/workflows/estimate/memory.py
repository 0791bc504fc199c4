"""Memory of one GPU and size of a checkpoint, by engine, ZeRO stage and precision.

Bytes with P parameters, T of them trained, on N GPUs; c are the bytes of a number that the model computes
with, 4 for `fp32` and 2 for `bf16`:

| | weights | gradients | optimizer states |
| --- | --- | --- | --- |
| `torch` | 4 P / N | 4 T / N | 8 T / N |
| ZeRO 1 | c P | c T + c T / N | 12 T / N |
| ZeRO 2 | c P | 4 T / N | 12 T / N |
| ZeRO 3 | c P / N | 4 T / N | 12 T / N |

This is what the engines in `llava_av.training.engines` allocate. Optimizer states are both moments, and
DeepSpeed's float32 copy of the trained weights, which it keeps even if these are float32. The buffers are in
`_fsdp_buffers` and `_zero_buffers`.

With `training.offload_optimizer`, the optimizer states are in host memory, with the gradients that they are
updated with (`_offloaded`). In ZeRO 1 the whole gradients stay on the GPU, in ZeRO 2 their shard.
"""

from llava_av.frozen import FrozenModel
from llava_av.recipe import TrainingRecipe
from llava_av.training.engines.deepspeed_engine import REDUCE_BUCKET
from llava_av.workflows.estimate.meta_model import ModelSize

__all__ = ["GpuMemory", "checkpoint_bytes", "gpu_memory"]

_FLOAT32 = 4
_COMPUTE = {"fp32": 4, "bf16": 2}
_MOMENTS = 8
# AdamW counts the steps of each tensor in a float32 number; DeepSpeed joins the tensors of a group.
_STEP_BYTES = 4
# Default of DeepSpeed's stage3_max_live_parameters.
_MAX_LIVE = 1_000_000_000


class GpuMemory(FrozenModel):
    """Memory of one GPU in bytes in the backward pass of a step."""

    weights: int
    gradients: int
    optimizer_states: int
    activations: int
    buffers: int
    """Buffers for communication, with gathered weights and the gradients that are being reduced."""
    total: int
    """Sum of all above."""
    host: int
    """Host memory that the process of this GPU offloads optimizer states and gradients to."""
    start: int
    """Whole model in float32, which each GPU holds before the engine shards or converts it; 0 if the engine
    reads a base model weight by weight."""

    @property
    def peak(self) -> int:
        """Return the larger of a step's memory and that of the start."""
        return max(self.total, self.start)


def gpu_memory(
    size: ModelSize, training: TrainingRecipe, activations: int, *, starts_whole: bool = True
) -> GpuMemory:
    """Return the memory of each of `training.num_processes` GPUs.

    Args:
        size: Parameters of the model.
        training: Engine, ZeRO stage, precision and number of GPUs.
        activations: Bytes of activations.
        starts_whole: False if the engine reads the weights one by one.
    """
    state = (_torch_state if training.engine == "torch" else _zero_state)(size, training)
    return GpuMemory(
        **state,
        activations=activations,
        total=sum(state.values()) + activations,
        host=_offloaded(size, training) if training.offload_optimizer else 0,
        start=_FLOAT32 * size.parameters if starts_whole else 0,
    )


def _torch_state(size: ModelSize, training: TrainingRecipe) -> dict[str, int]:
    gpus = training.num_processes
    is_sharded = gpus > 1 or training.precision == "bf16"
    return {
        "weights": _FLOAT32 * _share(size.parameters, gpus),
        "gradients": _FLOAT32 * _share(size.trained, gpus),
        "optimizer_states": _MOMENTS * _share(size.trained, gpus) + _STEP_BYTES * size.trained_tensors,
        "buffers": _fsdp_buffers(size, _COMPUTE[training.precision]) if is_sharded else 0,
    }


def _fsdp_buffers(size: ModelSize, compute: int) -> int:
    """Return the bytes of gathered weights and of gradients before they are sharded.

    The weights outside of all blocks stay gathered for the whole step, and their gradients are reduced last.
    Of the blocks, one computes while the next one is gathered. Gradients are copied in float32 to be reduced.
    """
    outside, block = size.outside, size.block
    gathered = compute * (outside.parameters + 2 * block.parameters)
    in_blocks = compute * outside.trained + (compute + _FLOAT32) * block.trained
    return gathered + max(in_blocks, (compute + _FLOAT32) * outside.trained)


def _zero_state(size: ModelSize, training: TrainingRecipe) -> dict[str, int]:
    compute, stage, gpus = _COMPUTE[training.precision], training.zero_stage, training.num_processes
    share, offloads = _share(size.trained, gpus), training.offload_optimizer
    copied = 0 if offloads else share
    return {
        "weights": compute * (_share(size.parameters, gpus) if stage == 3 else size.parameters),
        "gradients": {1: compute * (copied + size.trained), 2: _FLOAT32 * share, 3: _FLOAT32 * copied}[stage],
        "optimizer_states": 0 if offloads else (_FLOAT32 + _MOMENTS) * share,
        "buffers": compute * _zero_buffers(size, stage),
    }


def _offloaded(size: ModelSize, training: TrainingRecipe) -> int:
    """Return the bytes that DeepSpeed keeps in host memory: the optimizer states, and two more copies.

    One is the gradients in float32. The other is, in ZeRO 3, the gradients as they are reduced, and otherwise
    the updated weights before they are copied to the GPU.
    """
    last = _FLOAT32 if training.zero_stage == 3 else _COMPUTE[training.precision]
    return (_FLOAT32 + _MOMENTS + _FLOAT32 + last) * _share(size.trained, training.num_processes)


def _zero_buffers(size: ModelSize, stage: int) -> int:
    """Return the numbers in DeepSpeed's buffers."""
    bucket = min(REDUCE_BUCKET, size.trained)
    if stage < 3:
        return bucket
    # The bucket is copied into the shards of all GPUs before it is reduced.
    return 2 * bucket + min(size.parameters, _MAX_LIVE + size.largest)


def _share(count: int, gpus: int) -> int:
    return -(-count // gpus)


def checkpoint_bytes(size: ModelSize) -> int:
    """Return the bytes of a checkpoint: float32 weights and moments of what is trained, in `state/`.

    Random states and names of tensors are left out: they take some kilobytes for each tensor and process. The
    last checkpoint of a run also holds `model/`, the weights in the recipe's precision.
    """
    return (_FLOAT32 + _MOMENTS) * size.trained
