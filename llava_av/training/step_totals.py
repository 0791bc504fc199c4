"""Sums of one optimizer step over its micro-batches and over all processes, in one reduction."""

import itertools
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from llava_av.training.collective import sum_over_processes
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

    Losses stay on their device until `reduce`, so that micro-batches follow each other without waiting.

    Args:
        columns: Columns of `loss_columns`.
        device: Device of the losses.
    """

    def __init__(self, columns: dict[str, int], device: torch.device) -> None:
        self._columns = columns
        self._table = torch.zeros(2, len(columns), dtype=torch.float64, device=device)
        self._samples: list[tuple[tuple[str, ...], Tensor]] = []

    def add(self, batch: MicroBatch, sums: Tensor, counts: Tensor) -> None:
        """Add the samples of a micro-batch.

        Args:
            batch: The micro-batch.
            sums: Loss of each sample, summed over its labelled tokens; `[samples]` or longer.
            counts: Labelled tokens of each sample; `[samples]` or longer.
        """
        named = [
            (*_of_kind(kind), _of_modalities(modalities), "loss")
            for kind, modalities in zip(batch.kinds, batch.modalities, strict=True)
        ]
        places = [self._columns[name] for names in named for name in names]
        rows = [row for row, names in enumerate(named) for _ in names]
        if rows:
            pairs = torch.stack([sums.detach(), counts]).double()[:, torch.tensor(rows, device=sums.device)]
            self._table.index_add_(1, torch.tensor(places, device=sums.device), pairs)
        self._samples.append((batch.ids, sums.detach()))

    def not_finite(self) -> list[str]:
        """Return the IDs of this process's samples whose loss is not finite."""
        return [
            one
            for ids, sums in self._samples
            for one, is_finite in zip(ids, torch.isfinite(sums[: len(ids)]).tolist(), strict=True)
            if not is_finite
        ]

    def reduce(self, counts: Sequence[float]) -> tuple[dict[str, float], list[float]]:
        """Sum over all processes, which call it together.

        Args:
            counts: Further numbers of this process to sum.

        Returns:
            Mean loss per labelled token of each column with labels, and the sums of the numbers.
        """
        mine = torch.cat([self._table.flatten().cpu(), torch.tensor(counts, dtype=torch.float64)])
        every = sum_over_processes(mine)
        losses, labels = every[: self._table.numel()].view_as(self._table).tolist()
        means = {name: losses[at] / labels[at] for name, at in self._columns.items() if labels[at] > 0}
        return means, every[self._table.numel() :].tolist()


def _of_kind(kind: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys((f"loss/{family_of(kind)}", f"loss/kind/{kind}")))


def _of_modalities(modalities: str) -> str:
    return f"loss/modality/{modalities}"
