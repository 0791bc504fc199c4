"""One optimizer step: the same for every engine and any number of processes."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil
import torch
from torch import distributed

from llava_av.datasets.sample_columns import kinds_of
from llava_av.model import LlavaAvConfig
from llava_av.model.parts import PARTS, parts_with_input
from llava_av.processes.termination import Termination
from llava_av.training.bad_samples import BadSamples
from llava_av.training.collective import CpuGroup
from llava_av.training.engines import Engine
from llava_av.training.finite_checks import NonFiniteSteps, require_finite_state, stop
from llava_av.training.loader import LoadedBatch
from llava_av.training.profiling import StepProfiler
from llava_av.training.schedule import learning_rate_at
from llava_av.training.step_totals import StepTotals, loss_columns
from llava_av.training.throughput import Throughput

if TYPE_CHECKING:
    from llava_av.datasets.schema import Sample
    from llava_av.recipe import Recipe

__all__ = ["EngineModel", "StepMetrics", "StepObservers", "TakenStep", "Trainer"]

_LOG = logging.getLogger(__name__)

StepMetrics = dict[str, float]


@dataclass
class _Clock:
    started: float
    last: float


@dataclass(frozen=True, kw_only=True)
class EngineModel:
    """Engine with the model that it trains."""

    engine: Engine
    config: LlavaAvConfig
    """Config of the model."""
    device: torch.device
    """Device of the model."""


@dataclass(frozen=True, kw_only=True)
class StepObservers:
    """Objects that steps report to, and the signal that ends them."""

    bad_samples: BadSamples
    """Gets the samples that fail to decode."""
    termination: Termination
    throughput: Throughput
    profiler: StepProfiler


@dataclass(frozen=True, kw_only=True)
class TakenStep:
    """Step whose metrics are on their way from the device."""

    batch: LoadedBatch
    totals: StepTotals
    learning_rate: float


class Trainer:
    """Optimizer steps with their metrics; all processes call every method together.

    Args:
        model: Engine and model.
        recipe: Recipe of these steps.
        samples: All training samples, whose kinds have a mean loss each.
        observers: Objects that steps report to.
        first_step: First step of the stage.
    """

    def __init__(
        self,
        model: EngineModel,
        recipe: Recipe,
        samples: Sequence[Sample],
        observers: StepObservers,
        *,
        first_step: int = 0,
    ) -> None:
        self._engine = model.engine
        self._config = model.config
        self._device = model.device
        self._bad_samples = observers.bad_samples
        self._termination = observers.termination
        self._throughput = observers.throughput
        self.profiler = observers.profiler
        self._part = observers.profiler.part
        self._first_step = first_step
        self._recipe = recipe
        self._group = CpuGroup()
        self._columns = loss_columns(kinds_of(samples))
        self.non_finite = NonFiniteSteps(recipe.training.max_non_finite_steps)
        now = time.monotonic()
        self._clock = _Clock(started=now, last=now)

    @property
    def is_ending(self) -> bool:
        """Return whether all processes have agreed to end after the last step, because one got SIGTERM."""
        return self._termination.agreed

    def step(self, batch: LoadedBatch) -> TakenStep:
        """Take one optimizer step; `measure` returns its metrics.

        The loss is the mean over the labelled tokens of all micro-batches of all processes, so it does not
        depend on how samples are shared among them. A step whose loss or gradient is not finite updates
        nothing.

        A device may still compute when this returns, as no part of it waits for the device. DeepSpeed alone
        reads the norm of the gradient itself.

        Raises:
            NonFiniteError: No token of the step is labelled.
        """
        self.profiler.waited(batch.waited_s)
        learning_rate = self._learning_rate(batch.step)
        with self._part("metrics"):
            labelled, unused = self._agreed(batch, learning_rate)
        totals = StepTotals(self._columns)
        for number, micro_batch in enumerate(batch.micro_batches, start=1):
            with self._part("forward"):
                tensors = {
                    name: value.to(self._device, non_blocking=True)
                    for name, value in micro_batch.tensors.items()
                }
                output = self._engine.model(**tensors, layout=micro_batch.layout)
                loss = output.loss_sums.sum() * distributed.get_world_size() / labelled
            with self._part("backward"):
                self._engine.backward(loss, last=number == len(batch.micro_batches))
            totals.add(micro_batch, output.loss_sums, output.loss_counts)
        with self._part("optimizer"):
            totals.send(self._engine.step(learning_rate, unused))
        return TakenStep(batch=batch, totals=totals, learning_rate=learning_rate)

    def measure(self, taken: TakenStep) -> StepMetrics:
        """Return the metrics of a step over the samples of all processes, with one reduction.

        Raises:
            NonFiniteError: It is the last of as many steps in a row that are not finite as the recipe allows.
            UnfitSamplesError: More samples failed to decode than the recipe allows.
        """
        with self._part("metrics"):
            return self._measured(taken.batch, taken.totals, taken.learning_rate)

    def close(self) -> None:
        """Release the group of the metrics; the last call."""
        self._group.close()

    def require_finite_state(self, batch: LoadedBatch) -> None:
        """Require that the state that a checkpoint after this step would hold is finite.

        Raises:
            NonFiniteError: The state of any process is not finite.
        """
        learning_rate = self._learning_rate(batch.step)
        require_finite_state(batch.step, self._engine.fragments(), batch.ids, learning_rate)

    def _learning_rate(self, step: int) -> float:
        steps = self._recipe.training.steps
        return learning_rate_at(step - self._first_step, steps, self._recipe.optimizer)

    def _agreed(self, batch: LoadedBatch, learning_rate: float) -> tuple[float, frozenset[str]]:
        """Return the labelled tokens of all processes, and the parts that stay as they are in this step.

        These compute nothing in any process. If no sample of the step decodes, they are the whole model.
        """
        every = [one.tensors for one in batch.micro_batches]
        labelled = float(sum((one["labels"][:, 1:] >= 0).sum() for one in every))
        used = frozenset[str]().union(*(parts_with_input(self._config, one) for one in every))
        flags = [float(part in used) for part in PARTS]
        mine = [labelled, float(self._termination.requested), float(len(batch.failed)), *flags]
        shared = self._group.sum(torch.tensor(mine, dtype=torch.float64))
        labelled, terminated, failed, *flags = shared.tolist()
        self._termination.agreed = terminated > 0
        if failed and not labelled:
            if distributed.get_rank() == 0:
                _LOG.warning("step %d was not applied: none of its samples decodes", batch.step)
            return 1.0, frozenset(("language", *PARTS))
        if not labelled:
            stop(batch.step, "there is no loss, because no token is labelled", batch.ids, (), learning_rate)
        return labelled, frozenset(part for part, flag in zip(PARTS, flags, strict=True) if not flag)

    def _measured(self, batch: LoadedBatch, totals: StepTotals, learning_rate: float) -> StepMetrics:
        grad_norm, now = totals.receive()
        culprits = totals.not_finite()
        # Each process fills its own element of the sum, so the sum has the waits of all processes.
        waits = [0.0] * distributed.get_world_size()
        waits[distributed.get_rank()] = batch.waited_s
        own_tokens = sum(one.tokens for one in batch.micro_batches)
        is_bad = not math.isfinite(grad_norm)
        work = self._throughput.work([one.tensors for one in batch.micro_batches])
        counts = [len(culprits), is_bad, len(batch.failed), own_tokens, _memory_mib(), *work, *waits]
        losses, (bad_losses, bad_norm, failed, tokens, memory_mib, *sums) = totals.reduce(counts, self._group)
        work, waits = sums[: len(work)], sums[len(work) :]
        if failed:
            self._bad_samples.add(batch.failed, batch.step)
        step_s = now - self._clock.last
        self._clock.last = now
        costs = {"tokens_per_s": tokens / step_s, "memory_mib": memory_mib, "data_wait_s": max(waits)}
        metrics = losses | {"learning_rate": learning_rate, "grad_norm": grad_norm} | costs
        metrics |= self._throughput.metrics(tokens, work, step_s)
        metrics |= {"step_s": step_s, "time_s": now - self._clock.started}
        if not bad_losses and not bad_norm:
            self.non_finite.passed()
            return metrics
        what = "the loss is not finite" if bad_losses else "the gradient norm is not finite"
        self.non_finite.skipped(batch.step, what, batch.ids, culprits, learning_rate)
        return {name: value for name, value in metrics.items() if math.isfinite(value)}


def _memory_mib() -> float:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return float(psutil.Process().memory_info().rss / 2**20)
