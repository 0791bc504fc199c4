"""The training loop: the same for every engine and any number of processes."""

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass

import psutil
import torch
from torch import distributed

from llava_av.datasets.schema import Sample, family
from llava_av.processes import report_progress
from llava_av.recipe import Recipe
from llava_av.training.engine import Engine
from llava_av.training.loader import LoadedBatch
from llava_av.training.schedule import learning_rate_at

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
    """Runs steps; all processes call every method together."""

    def __init__(
        self, engine: Engine, recipe: Recipe, samples: Sequence[Sample], device: torch.device
    ) -> None:
        self._engine = engine
        self._recipe = recipe
        self._device = device
        kinds = sorted({sample.kind for sample in samples})
        names = dict.fromkeys(name for kind in kinds for name in _kind_columns(kind))
        names |= dict.fromkeys(f"loss/modality/{name}" for name in _MODALITIES)
        self._columns = {name: number for number, name in enumerate([*names, "loss"])}
        now = time.monotonic()
        self._clock = _Clock(started=now, last=now)

    def step(self, batch: LoadedBatch) -> StepMetrics:
        """One optimizer step; the metrics are over the samples of all processes.

        The loss is the mean over the labelled tokens of the whole step, wherever they are, so it does not
        depend on how samples are shared among processes.
        """
        training = self._recipe.training
        tensors = {name: value.to(self._device) for name, value in batch.tensors.items()}
        learning_rate = learning_rate_at(batch.step, training.steps, self._recipe.optimizer)
        labelled = _over_all(torch.tensor([float((tensors["labels"][:, 1:] >= 0).sum())]))
        output = self._engine.model(**tensors)
        loss = output.loss_sums.sum() * distributed.get_world_size() / labelled.item()
        grad_norm = self._engine.step(loss, learning_rate)
        metrics = self._losses(batch, output.loss_sums.detach().cpu(), output.loss_counts.cpu())
        metrics |= {"learning_rate": learning_rate, "grad_norm": grad_norm} | self._costs(batch)
        report_progress("train", batch.step + 1, training.steps, f"loss {metrics['loss']:.3f}")
        return metrics

    def _losses(self, batch: LoadedBatch, sums: torch.Tensor, counts: torch.Tensor) -> StepMetrics:
        """Mean loss a labelled token: overall, by kind and family of question, and by modalities."""
        table = torch.zeros(2, len(self._columns), dtype=torch.float64)
        for row, (kind, modality) in enumerate(zip(batch.kinds, batch.modalities, strict=True)):
            pair = torch.stack([sums[row], counts[row]]).double()
            for name in (*_kind_columns(kind), f"loss/modality/{modality}", "loss"):
                table[:, self._columns[name]] += pair
        losses, labels = _over_all(table).tolist()
        return {name: losses[i] / labels[i] for name, i in self._columns.items() if labels[i] > 0}

    def _costs(self, batch: LoadedBatch) -> StepMetrics:
        now = time.monotonic()
        memory_mib = (
            torch.cuda.max_memory_allocated() / 2**20
            if torch.cuda.is_available()
            else psutil.Process().memory_info().rss / 2**20
        )
        # Each process has a place of its own in the sum, so that the longest wait can be told.
        waits = [0.0] * distributed.get_world_size()
        waits[distributed.get_rank()] = batch.waited_s
        tokens, memory, *waits = _over_all(torch.tensor([float(batch.tokens), memory_mib, *waits])).tolist()
        step_s = now - self._clock.last
        self._clock.last = now
        costs = {"tokens_per_s": tokens / step_s, "memory_mib": memory, "data_wait_s": max(waits)}
        return costs | {"step_s": step_s, "time_s": now - self._clock.started}


def _kind_columns(kind: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys((f"loss/{family(kind)}", f"loss/kind/{kind}")))


def _over_all(values: torch.Tensor) -> torch.Tensor:
    """The sum over processes."""
    if torch.cuda.is_available():
        values = values.cuda()
    distributed.all_reduce(values)
    return values.cpu()
