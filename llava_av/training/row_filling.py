"""Rows of a step's samples, filled so that they cost about the same.

Samples about the same media stay together in pieces, as far as a limit allows. The costliest piece comes
first, and each goes into the cheapest row with room for it.

All processes must compute the same rows, whatever their CPU. NumPy is therefore used only where its results
do not depend on the order of an addition: comparisons, stable sorting, and sums that add one number after
another.
"""

import heapq
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["FilledRow", "SampleCost", "StepCosts", "fill_rows"]

_Floats = npt.NDArray[np.float64]
_Integers = npt.NDArray[np.int64]
_Piece = tuple[float, float, float, int]
"""Samples that stay together: tokens, cost in the language model and in the towers, number of their media."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleCost:
    """Cost of one sample, in any unit that all samples of a step share."""

    tokens: int
    """Tokens of the sequence."""
    language: float
    """Cost in the language model."""
    towers: float
    """Cost of its media in the towers, paid once in a micro-batch by all samples with the same media."""
    media: Hashable
    """Value that is equal for samples with the same media."""


class FilledRow(NamedTuple):
    """Samples of a row, or without packing of a process, and their cost."""

    samples: list[int]
    cost: float


@dataclass(frozen=True, kw_only=True)
class StepCosts:
    """Costs of a step's samples `[samples]`, those about the same media next to each other."""

    index: _Integers
    """Index of each sample in the step."""
    tokens: _Integers
    language: _Floats
    towers: _Floats
    clip: _Integers
    """Number of the sample's media."""

    @classmethod
    def of(cls, costs: Sequence[SampleCost]) -> "StepCosts":
        """Return the costs of the samples of a step."""
        numbers: dict[Hashable, int] = {}
        clip = np.array([numbers.setdefault(cost.media, len(numbers)) for cost in costs], np.int64)
        index = np.argsort(clip, kind="stable")
        return cls(
            index=index,
            tokens=np.array([cost.tokens for cost in costs], np.int64)[index],
            language=np.array([cost.language for cost in costs], np.float64)[index],
            towers=np.array([cost.towers for cost in costs], np.float64)[index],
            clip=clip[index],
        )


def fill_rows(step: StepCosts, count: int, largest: float, room: float) -> list[FilledRow] | None:
    """Return rows of similar cost, or None if the samples need more rows.

    Args:
        step: Costs of the samples.
        count: Number of rows.
        largest: Largest cost of a piece with several samples, relative to the mean cost of a row.
        room: Tokens of a row.
    """
    first = _starts(step, count, largest, room)
    samples = np.diff(first, append=len(step.clip))
    piece = np.repeat(np.arange(len(first)), samples)
    tokens, language = np.bincount(piece, step.tokens).astype(np.float64), np.bincount(piece, step.language)
    towers = step.towers[first]
    cost = language + towers
    # The scarcer of room and time decides which piece comes first.
    order = np.argsort(-np.maximum(tokens / _total(tokens), cost / _total(cost)), kind="stable")
    values = (tokens, language, towers, step.clip[first])
    placed = _placed(zip(*(each[order].tolist() for each in values), strict=True), count, room)
    if placed is None:
        return None
    row_of, costs = placed
    row = np.empty(len(first), np.int64)
    row[order] = row_of
    row = row[piece]
    index = step.index[np.argsort(row, kind="stable")].tolist()
    ends = np.cumsum(np.bincount(row, minlength=count)).tolist()
    return [FilledRow(index[at:to], own) for at, to, own in zip([0, *ends], ends, costs, strict=False)]


def _placed(pieces: Iterable[_Piece], count: int, room: float) -> tuple[list[int], list[float]] | None:
    """Return the row of each piece and the cost of each row, or None if the rows are too few."""
    row_of: list[int] = []
    rooms, costs = [room] * count, [0.0] * count
    cheapest = [(0.0, row) for row in range(count)]
    # Rows without room for an earlier piece, the roomiest first.
    full: list[tuple[float, int]] = []
    paid: set[int] = set()
    for tokens, language, towers, clip in pieces:
        while full and -full[0][0] >= tokens:
            row = heapq.heappop(full)[1]
            heapq.heappush(cheapest, (costs[row], row))
        while cheapest and rooms[cheapest[0][1]] < tokens:
            row = heapq.heappop(cheapest)[1]
            heapq.heappush(full, (-rooms[row], row))
        if not cheapest:
            return None
        row = cheapest[0][1]
        row_of.append(row)
        rooms[row] -= tokens
        pair = clip * count + row
        costs[row] += language if pair in paid else language + towers
        paid.add(pair)
        heapq.heapreplace(cheapest, (costs[row], row))
    return row_of, costs


def _starts(step: StepCosts, count: int, largest: float, room: float) -> _Integers:
    """Return the places at which pieces start."""
    starts = np.flatnonzero(np.diff(step.clip, prepend=-1))
    if largest == 0:
        return np.arange(len(step.clip))
    tokens = np.bincount(step.clip, step.tokens)
    cost = np.bincount(step.clip, step.language) + step.towers[starts]
    most = largest * _total(cost) / count
    ends = np.append(starts[1:], len(step.clip))
    too_large = ((tokens > room) | (cost > most)) & (ends - starts > 1)
    spans = list(zip(starts[too_large].tolist(), ends[too_large].tolist(), strict=True))
    return np.union1d(starts, np.array(_cuts(step, spans, most, room), np.int64))


def _cuts(step: StepCosts, clips: Sequence[tuple[int, int]], most: float, room: float) -> list[int]:
    """Return the places at which the samples about each of these clips are cut into pieces."""
    found: list[int] = []
    tokens, language, towers = step.tokens.tolist(), step.language.tolist(), step.towers.tolist()
    for first, end in clips:
        start, filled, cost = first, 0, towers[first]
        for place in range(first, end):
            if place > start and (filled + tokens[place] > room or cost + language[place] > most):
                found.append(place)
                start, filled, cost = place, 0, towers[first]
            filled, cost = filled + tokens[place], cost + language[place]
    return found


def _total(values: npt.NDArray[Any]) -> float:
    # NumPy's own sum adds in an order that depends on the CPU.
    return float(np.cumsum(values)[-1])
