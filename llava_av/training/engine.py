"""One small interface over what turns gradients into steps: DeepSpeed ZeRO, or plain PyTorch."""

import math
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from llava_av.errors import UserError
from llava_av.processes.heartbeat import COLLECTIVE_LIMIT
from llava_av.recipe import Recipe
from llava_av.training.optimizer import build_optimizer, prepare_step
from llava_av.training.safe_loading import DataOnlyFiles, load_data

__all__ = ["Engine", "EngineError", "build_engine", "start_processes"]


class EngineError(UserError):
    """The engine that the recipe asks for cannot run on this machine."""


class Engine(Protocol):
    """What the loop needs; every method is called by all processes together."""

    model: nn.Module
    """To be called for the forward pass."""

    def step(self, loss: Tensor, learning_rate: float, unused: Collection[str] = ()) -> float:
        """Run the backward pass and update the weights with the mean gradient over processes, clipped.

        Args:
            loss: This process's.
            learning_rate: Of this step.
            unused: Parts of the model (`llava_av.model.parts`) that computed nothing in any process: they and
                their optimizer state stay as they are.

        Returns:
            The norm of the gradient before clipping. If it is not finite, nothing is updated.
        """
        ...

    def optimizer_state(self) -> Any:
        """This process's optimizer tensors and numbers, for the digest."""
        ...

    def weights(self) -> dict[str, Tensor]:
        """The model's whole state by name in the first process; perhaps nothing in the others."""
        ...

    def save(self, folder: Path) -> None:
        """Writes what `load` needs into an existing folder."""
        ...

    def load(self, folder: Path) -> None:
        """Restores weights and optimizer."""
        ...


def start_processes(engine: str) -> tuple[int, int]:
    """Joins the processes that torchrun started.

    Returns:
        Rank of this process and number of processes.

    Raises:
        EngineError: DeepSpeed is asked for and not installed.
    """
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    if engine == "deepspeed":
        _deepspeed().init_distributed(backend, verbose=False, timeout=COLLECTIVE_LIMIT)
    else:
        torch.distributed.init_process_group(backend, timeout=COLLECTIVE_LIMIT)
    return torch.distributed.get_rank(), torch.distributed.get_world_size()


def build_engine(model: nn.Module, recipe: Recipe, *, by_part: bool = True) -> Engine:
    """Return the engine that the recipe names, around the model; `by_part` as in `build_optimizer`."""
    engine = DeepSpeedEngine if recipe.training.engine == "deepspeed" else TorchEngine
    return engine(model, recipe, by_part=by_part)


class TorchEngine:
    """Plain PyTorch; with several processes gradients are averaged by DistributedDataParallel."""

    def __init__(self, model: nn.Module, recipe: Recipe, *, by_part: bool) -> None:
        self._max_grad_norm = recipe.optimizer.max_grad_norm
        self._module = model
        several = torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1
        self.model = nn.parallel.DistributedDataParallel(model) if several else model
        self._optimizer = build_optimizer(model, recipe.optimizer, by_part=by_part)

    def step(self, loss: Tensor, learning_rate: float, unused: Collection[str] = ()) -> float:
        """See `Engine`."""
        self._optimizer.zero_grad()
        loss.backward()
        norm = float(nn.utils.clip_grad_norm_(self._module.parameters(), self._max_grad_norm))
        prepare_step(self._optimizer, learning_rate, unused)
        if math.isfinite(norm):
            self._optimizer.step()
        return norm

    def optimizer_state(self) -> Any:
        """See `Engine`."""
        return _of_updated(self._optimizer.state_dict()["state"])

    def weights(self) -> dict[str, Tensor]:
        """See `Engine`."""
        return dict(self._module.state_dict())

    def save(self, folder: Path) -> None:
        """See `Engine`; only the first process writes, the others hold the same."""
        if not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0:
            state = {"module": self._module.state_dict(), "optimizer": self._optimizer.state_dict()}
            torch.save(state, folder / "torch_engine.pt")

    def load(self, folder: Path) -> None:
        """See `Engine`."""
        state = load_data(folder / "torch_engine.pt")
        self._module.load_state_dict(state["module"])
        self._optimizer.load_state_dict(state["optimizer"])


class DeepSpeedEngine:
    """DeepSpeed ZeRO stage 1, 2 or 3, float32.

    Stage 3 keeps a part of each weight in each process and gathers a module's weights when it is called, in
    all processes together: they have to call the same modules in the same order, whatever their samples hold.
    """

    _TAG = "engine"

    def __init__(self, model: nn.Module, recipe: Recipe, *, by_part: bool) -> None:
        training = recipe.training
        self._module = model
        config = {
            "train_batch_size": training.global_batch_size,
            "train_micro_batch_size_per_gpu": training.global_batch_size
            // torch.distributed.get_world_size(),
            "gradient_accumulation_steps": 1,
            "gradient_clipping": recipe.optimizer.max_grad_norm,
            "zero_optimization": {"stage": training.zero_stage, "overlap_comm": False},
            "steps_per_print": 10**9,
        }
        if training.zero_stage == 3 and hasattr(model, "audio_tower"):
            tower: Any = model.audio_tower
            tower.equal_calls = _most
        optimizer = build_optimizer(model, recipe.optimizer, by_part=by_part)
        self.model, self._optimizer, _, _ = _deepspeed().initialize(
            model=model, optimizer=optimizer, config=config
        )
        self.model.checkpoint_engine = DataOnlyFiles(self.model.checkpoint_engine, _deepspeed_classes())

    def step(self, loss: Tensor, learning_rate: float, unused: Collection[str] = ()) -> float:
        """See `Engine`."""
        self.model.backward(loss)
        prepare_step(self._optimizer, learning_rate, unused)
        # It leaves out the update if the norm is not finite, and gives infinity.
        self.model.step()
        return float(self.model.get_global_grad_norm())

    def optimizer_state(self) -> Any:
        """See `Engine`."""
        state = self._optimizer.state_dict()
        if "fp32_flat_groups" in state:
            return {
                "state": _of_updated(state["optimizer_state_dict"]["state"]),
                "fp32": state["fp32_flat_groups"],
            }
        return {
            "state": _of_updated(state["base_optimizer_state"]["state"]),
            "fp32": state["single_partition_of_fp32_groups"],
        }

    def weights(self) -> dict[str, Tensor]:
        """See `Engine`; one weight at a time, as the whole may not fit into one process's device."""
        gathered = _deepspeed().zero.GatheredParameters
        first = torch.distributed.get_rank() == 0
        whole: dict[str, Tensor] = {}
        for name, tensor in self._module.state_dict(keep_vars=True).items():
            if not hasattr(tensor, "ds_id"):
                whole[name] = tensor.detach()
                continue
            with gathered([tensor]):
                if first:
                    whole[name] = tensor.detach().cpu().clone()
        return whole

    def save(self, folder: Path) -> None:
        """See `Engine`."""
        self.model.save_checkpoint(str(folder), tag=self._TAG, save_latest=False)
        if torch.distributed.get_rank() == 0:
            # A checkpoint is data: scripts in a bucket are run by somebody some day, whoever wrote them.
            for script in folder.glob("*.py"):
                script.unlink()

    def load(self, folder: Path) -> None:
        """See `Engine`."""
        loaded, _ = self.model.load_checkpoint(str(folder), tag=self._TAG)
        if loaded is None:
            raise EngineError(
                f"DeepSpeed finds no checkpoint in {folder}: delete that checkpoint and train again"
            )


def _of_updated(state: Mapping[int, Any]) -> dict[int, Any]:
    """Return the states of weights that were updated at least once; DeepSpeed leaves empty ones of others."""
    return {number: one for number, one in state.items() if one}


def _most(count: int) -> int:
    """The largest of all processes' numbers."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    counts = torch.tensor(count, device=device)
    torch.distributed.all_reduce(counts, torch.distributed.ReduceOp.MAX)
    return int(counts)


def _deepspeed_classes() -> list[type]:
    """Return the classes of which DeepSpeed's checkpoints hold instances: two of numbers, one enumeration."""
    from deepspeed.runtime.fp16.loss_scaler import LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    return [LossScaler, ZeroStageEnum, fragment_address]


def _deepspeed() -> Any:
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    try:
        import deepspeed
        import deepspeed.ops
    except ImportError:
        raise EngineError(
            "DeepSpeed is not installed here: use --engine torch, or install it (Linux only)"
        ) from None
    # its shared-memory collective would be compiled at first use; gloo gives the same weights bit for bit
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed
