"""Sums of one optimizer step over its micro-batches and over all processes, in one copy and one reduction."""

import itertools
import time
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from llava_av.training.collective import CpuGroup
from llava_av.training.loader import MicroBatch
from llava_av.vocabulary import family_of

__all__ = ["StepTotals", "loss_columns"]

_MODALITIES = (
    "text",
    *("_".join(kinds) for n in (1, 2, 3) for kinds in itertools.combinations(("image", "video", "audio"), n)),
)


def loss_columns(kinds: Iterable[str]) -> dict[str, int]:
    """Return the column index of each mean loss by name: of each kind, family and modality, and of all.

    Args:
        kinds: Kinds of all samples.
    """
    names = dict.fromkeys(name for kind in sorted(set(kinds)) for name in _of_kind(kind))
    names |= dict.fromkeys(map(_of_modalities, _MODALITIES))
    return {name: number for number, name in enumerate([*names, "loss"])}


class StepTotals:
    """Sums of losses and of labelled tokens by column, for one step.

    Losses stay on their device until `send` starts a copy of all of them, with the norm of the gradient. The
    host may wait for it when the device computes the next step.

    Args:
        columns: Columns of `loss_columns`.
    """

    def __init__(self, columns: dict[str, int]) -> None:
        self._columns = columns
        self._batches: list[MicroBatch] = []
        self._pairs: list[Tensor] = []
        self._values = torch.empty(0)
        self._sent_at = 0.0
        self._copied: torch.cuda.Event | None = None

    def add(self, batch: MicroBatch, sums: Tensor, counts: Tensor) -> None:
        """Add the samples of a micro-batch.

        Args:
            batch: The micro-batch.
            sums: Loss of each sample, summed over its labelled tokens; `[samples]` or longer.
            counts: Labelled tokens of each sample; `[samples]` or longer.
        """
        self._batches.append(batch)
        self._pairs.append(torch.stack([sums.detach(), counts]))

    def send(self, grad_norm: Tensor) -> None:
        """Start the copy of all values to the host.

        Args:
            grad_norm: Norm of the gradient, one element on any device.
        """
        device = self._pairs[0].device
        norm = grad_norm.detach().reshape(1).double().to(device, non_blocking=True)
        packed = torch.cat([norm, *(one.double().flatten() for one in self._pairs)])
        # Into pinned memory, which the event protects until the copy has ended.
        self._values = packed.to("cpu", non_blocking=True)
        if packed.is_cuda:
            self._copied = torch.cuda.Event()
            self._copied.record()
        self._sent_at = time.monotonic()

    def receive(self) -> tuple[float, float]:
        """Wait for the copy; return the norm of the gradient, and when the step ended in monotonic time."""
        if self._copied is not None:
            self._copied.synchronize()
            self._sent_at = time.monotonic()
        norm, *flat = self._values.split([1, *(one.numel() for one in self._pairs)])
        self._pairs = [one.view(2, -1) for one in flat]
        return float(norm), self._sent_at

    def not_finite(self) -> list[str]:
        """Return the IDs of this process's samples whose loss is not finite, after `receive`."""
        return [
            one
            for batch, (sums, _) in zip(self._batches, self._pairs, strict=True)
            for one, is_finite in zip(batch.ids, torch.isfinite(sums[: len(batch.ids)]).tolist(), strict=True)
            if not is_finite
        ]

    def reduce(self, counts: Sequence[float], group: CpuGroup) -> tuple[dict[str, float], list[float]]:
        """Sum over all processes, which call it together after `receive`.

        Args:
            counts: Further numbers of this process to sum.
            group: All processes.

        Returns:
            Mean loss per labelled token of each column with labels, and the sums of the numbers.
        """
        table = torch.zeros(2, len(self._columns), dtype=torch.float64)
        for batch, pairs in zip(self._batches, self._pairs, strict=True):
            self._add_to(table, batch, pairs)
        every = group.sum(torch.cat([table.flatten(), torch.tensor(counts, dtype=torch.float64)]))
        losses, labels = every[: table.numel()].view_as(table).tolist()
        means = {name: losses[at] / labels[at] for name, at in self._columns.items() if labels[at] > 0}
        return means, every[table.numel() :].tolist()

    def _add_to(self, table: Tensor, batch: MicroBatch, pairs: Tensor) -> None:
        named = [
            (*_of_kind(kind), _of_modalities(modalities), "loss")
            for kind, modalities in zip(batch.kinds, batch.modalities, strict=True)
        ]
        places = [self._columns[name] for names in named for name in names]
        rows = [row for row, names in enumerate(named) for _ in names]
        if rows:
            table.index_add_(1, torch.tensor(places), pairs[:, torch.tensor(rows)])


def _of_kind(kind: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys((f"loss/{family_of(kind)}", f"loss/kind/{kind}")))


def _of_modalities(modalities: str) -> str:
    return f"loss/modality/{modalities}"
