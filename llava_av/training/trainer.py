"""One optimizer step: the same for every engine and any number of processes."""

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass

import psutil
import torch
from torch import Tensor, distributed

from llava_av.datasets.schema import Sample
from llava_av.model import LlavaAvConfig
from llava_av.model.parts import PARTS, parts_with_input
from llava_av.processes import report_progress
from llava_av.recipe import Recipe
from llava_av.training.collective import sum_over_processes
from llava_av.training.engines import Engine
from llava_av.training.finite_checks import require_finite_gradients, require_finite_state, stop
from llava_av.training.loader import LoadedBatch
from llava_av.training.schedule import learning_rate_at
from llava_av.vocabulary import family_of

__all__ = ["StepMetrics", "Trainer"]

StepMetrics = dict[str, float]
_MODALITIES = (
    "text",
    *("_".join(kinds) for n in (1, 2, 3) for kinds in itertools.combinations(("image", "video", "audio"), n)),
)


@dataclass
class _Clock:
    started: float
    last: float


class Trainer:
    """Optimizer steps with their metrics; all processes call every method together."""

    def __init__(
        self,
        engine: Engine,
        config: LlavaAvConfig,
        recipe: Recipe,
        samples: Sequence[Sample],
        device: torch.device,
    ) -> None:
        self._engine = engine
        self._config = config
        self._recipe = recipe
        self._device = device
        kinds = sorted({sample.kind for sample in samples})
        names = dict.fromkeys(name for kind in kinds for name in _kind_columns(kind))
        names |= dict.fromkeys(f"loss/modality/{name}" for name in _MODALITIES)
        self._columns = {name: number for number, name in enumerate([*names, "loss"])}
        now = time.monotonic()
        self._clock = _Clock(started=now, last=now)

    def step(self, batch: LoadedBatch) -> StepMetrics:
        """Take one optimizer step; return metrics over the samples of all processes.

        The loss is the mean over the labelled tokens of all processes, so it does not depend on how samples
        are shared among them.

        Raises:
            NonFiniteError: The loss or the gradient is not finite; nothing was updated.
        """
        training = self._recipe.training
        tensors = {name: value.to(self._device) for name, value in batch.tensors.items()}
        learning_rate = learning_rate_at(batch.step, training.steps, self._recipe.optimizer)
        output = self._engine.model(**tensors)
        labelled, unused = self._agreed(batch, output.loss_sums, learning_rate)
        loss = output.loss_sums.sum() * distributed.get_world_size() / labelled
        grad_norm = self._engine.step(loss, learning_rate, unused)
        require_finite_gradients(batch.step, grad_norm, batch.ids, learning_rate)
        metrics = self._losses(batch, output.loss_sums.detach().cpu(), output.loss_counts.cpu())
        metrics |= {"learning_rate": learning_rate, "grad_norm": grad_norm} | self._costs(batch)
        report_progress("train", batch.step + 1, training.steps, f"loss {metrics['loss']:.3f}")
        return metrics

    def require_finite_state(self, batch: LoadedBatch) -> None:
        """Require that the state that a checkpoint after this step would hold is finite.

        Raises:
            NonFiniteError: The state of any process is not finite.
        """
        learning_rate = learning_rate_at(batch.step, self._recipe.training.steps, self._recipe.optimizer)
        require_finite_state(batch.step, self._engine.fragments(), batch.ids, learning_rate)

    def _agreed(
        self, batch: LoadedBatch, loss_sums: Tensor, learning_rate: float
    ) -> tuple[float, frozenset[str]]:
        """Return the labelled tokens of all processes, and the parts that computed nothing in any of them."""
        finite = torch.isfinite(loss_sums.detach()).tolist()
        culprits = [one for one, is_finite in zip(batch.ids, finite, strict=True) if not is_finite]
        labelled = float((batch.tensors["labels"][:, 1:] >= 0).sum())
        used = parts_with_input(self._config, batch.tensors)
        flags = [float(part in used) for part in PARTS]
        labelled, bad, *flags = sum_over_processes(torch.tensor([labelled, len(culprits), *flags])).tolist()
        if bad:
            stop(batch.step, "the loss is not finite", batch.ids, culprits, learning_rate)
        if not labelled:
            stop(batch.step, "there is no loss, because no token is labelled", batch.ids, (), learning_rate)
        return labelled, frozenset(part for part, flag in zip(PARTS, flags, strict=True) if not flag)

    def _losses(self, batch: LoadedBatch, sums: torch.Tensor, counts: torch.Tensor) -> StepMetrics:
        """Return the mean loss per labelled token: overall, by kind and family of question, by modalities."""
        table = torch.zeros(2, len(self._columns), dtype=torch.float64)
        for row, (kind, modality) in enumerate(zip(batch.kinds, batch.modalities, strict=True)):
            pair = torch.stack([sums[row], counts[row]]).double()
            for name in (*_kind_columns(kind), f"loss/modality/{modality}", "loss"):
                table[:, self._columns[name]] += pair
        losses, labels = sum_over_processes(table).tolist()
        return {name: losses[i] / labels[i] for name, i in self._columns.items() if labels[i] > 0}

    def _costs(self, batch: LoadedBatch) -> StepMetrics:
        now = time.monotonic()
        memory_mib = (
            torch.cuda.max_memory_allocated() / 2**20
            if torch.cuda.is_available()
            else psutil.Process().memory_info().rss / 2**20
        )
        # Each process has its own element in the sum, from which the longest wait follows.
        waits = [0.0] * distributed.get_world_size()
        waits[distributed.get_rank()] = batch.waited_s
        tokens, memory, *waits = sum_over_processes(
            torch.tensor([float(batch.tokens), memory_mib, *waits])
        ).tolist()
        step_s = now - self._clock.last
        self._clock.last = now
        costs = {"tokens_per_s": tokens / step_s, "memory_mib": memory, "data_wait_s": max(waits)}
        return costs | {"step_s": step_s, "time_s": now - self._clock.started}


def _kind_columns(kind: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys((f"loss/{family_of(kind)}", f"loss/kind/{kind}")))
