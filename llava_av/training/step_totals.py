"""Sums of one optimizer step over its micro-batches and over all processes, in one reduction."""

import itertools
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

    Losses are copied from their device while it computes. They are read when the step has synchronized with
    the device for another reason, the norm of its gradient, so that they cause no wait of their own.

    Args:
        columns: Columns of `loss_columns`.
    """

    def __init__(self, columns: dict[str, int]) -> None:
        self._columns = columns
        self._batches: list[tuple[MicroBatch, Tensor]] = []
        self._copied: torch.cuda.Event | None = None

    def add(self, batch: MicroBatch, sums: Tensor, counts: Tensor) -> None:
        """Add the samples of a micro-batch.

        Args:
            batch: The micro-batch.
            sums: Loss of each sample, summed over its labelled tokens; `[samples]` or longer.
            counts: Labelled tokens of each sample; `[samples]` or longer.
        """
        pairs = torch.stack([sums.detach(), counts]).to("cpu", non_blocking=True)
        self._batches.append((batch, pairs))
        if sums.is_cuda:
            self._copied = torch.cuda.Event()
            self._copied.record()

    def not_finite(self) -> list[str]:
        """Return the IDs of this process's samples whose loss is not finite."""
        self._wait_for_copies()
        return [
            one
            for batch, (sums, _) in self._batches
            for one, is_finite in zip(batch.ids, torch.isfinite(sums[: len(batch.ids)]).tolist(), strict=True)
            if not is_finite
        ]

    def reduce(self, counts: Sequence[float], group: CpuGroup) -> tuple[dict[str, float], list[float]]:
        """Sum over all processes, which call it together.

        Args:
            counts: Further numbers of this process to sum.
            group: All processes.

        Returns:
            Mean loss per labelled token of each column with labels, and the sums of the numbers.
        """
        self._wait_for_copies()
        table = torch.zeros(2, len(self._columns), dtype=torch.float64)
        for batch, pairs in self._batches:
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
            table.index_add_(1, torch.tensor(places), pairs.double()[:, torch.tensor(rows)])

    def _wait_for_copies(self) -> None:
        if self._copied is not None:
            self._copied.synchronize()


def _of_kind(kind: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys((f"loss/{family_of(kind)}", f"loss/kind/{kind}")))


def _of_modalities(modalities: str) -> str:
    return f"loss/modality/{modalities}"
