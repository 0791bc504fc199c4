"""Division of a step's samples into micro-batches that take equally long in all processes.

All processes compute the same plan from the sizes of all samples of the step, before anything is decoded.
Samples about the same media stay together where balance allows, because a clip goes through the towers once
in each micro-batch.

The processes wait for each other in every micro-batch, as sharded weights are gathered by all of them
together. The plan therefore balances each micro-batch over the processes, not only their sums: rows of
similar cost are computed at the same time.
"""

import heapq
import math
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field

__all__ = ["MicroBatchPlan", "SampleCost", "plan_micro_batches", "useful_share"]

MicroBatchPlan = tuple[tuple[int, ...], ...]
"""Indices of the samples of each row, one per row without packing. Empty if a process has no sample."""

_PIECES = (math.inf, 1.0, 0.5, 0.25, 0.125, 0.0)
"""Largest pieces that samples about the same media are cut into, relative to a process's mean cost."""


@dataclass(frozen=True, kw_only=True)
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


@dataclass
class _Bin:
    """A row, or without packing a process's samples."""

    room: float
    cost: float = 0.0
    samples: list[int] = field(default_factory=list)
    media: set[Hashable] = field(default_factory=set)


@dataclass(frozen=True)
class _Piece:
    """Samples with the same media that stay together."""

    samples: tuple[int, ...]
    tokens: int
    language: float
    towers: float
    media: Hashable

    @property
    def cost(self) -> float:
        return self.language + self.towers


def plan_micro_batches(
    costs: Sequence[SampleCost],
    *,
    processes: int,
    pack_length: int | None = None,
    micro_batch_tokens: int | None = None,
) -> tuple[tuple[MicroBatchPlan, ...], ...]:
    """Return the micro-batches of each process, equally many for each.

    Args:
        costs: Costs of the samples of a step, at least one.
        processes: Number of processes.
        pack_length: Tokens of a row into which samples are packed; None: one sample per row.
        micro_batch_tokens: Maximum tokens of a micro-batch with its padding, which a single longer sample
            may exceed; None: each process has one micro-batch.

    Raises:
        ValueError: A sample is longer than a row; names both lengths.
    """
    if pack_length is not None:
        longest = max(cost.tokens for cost in costs)
        if longest > pack_length:
            raise ValueError(
                f"a sample of {longest} tokens does not fit packed rows of {pack_length}: raise "
                "training.pack_length, or set model.max_tokens and model.over_limit"
            )
        return _packed(costs, processes, pack_length, micro_batch_tokens)
    if micro_batch_tokens is None:
        bins = _best_bins(costs, processes)
        assert bins is not None, "a bin without a limit takes every sample"
        return tuple((tuple((index,) for index in one.samples),) for one in bins)
    return _padded(costs, processes, micro_batch_tokens)


def useful_share(costs: Sequence[SampleCost], plan: Sequence[Sequence[MicroBatchPlan]]) -> float:
    """Return the share of time, 0 to 1, in which processes compute instead of waiting for the slowest."""
    by_micro_batch = [[_cost_of(costs, one) for one in every] for every in zip(*plan, strict=True)]
    slowest = sum(map(max, by_micro_batch))
    return sum(map(sum, by_micro_batch)) / (len(plan) * slowest)


def _cost_of(costs: Sequence[SampleCost], rows: MicroBatchPlan) -> float:
    samples = [costs[index] for row in rows for index in row]
    towers = {cost.media: cost.towers for cost in samples}
    return sum(cost.language for cost in samples) + sum(towers.values())


def _packed(
    costs: Sequence[SampleCost], processes: int, length: int, micro_batch_tokens: int | None
) -> tuple[tuple[MicroBatchPlan, ...], ...]:
    rows = max(1, math.ceil(sum(cost.tokens for cost in costs) / (processes * length)))
    while (bins := _best_bins(costs, rows * processes, length)) is None:
        rows += 1
    per_micro_batch = rows if micro_batch_tokens is None else max(1, micro_batch_tokens // length)
    count = math.ceil(rows / per_micro_batch)
    bins.sort(key=lambda one: -one.cost)
    plan: list[list[MicroBatchPlan]] = [[] for _ in range(processes)]
    for number in range(count):
        # Equally many rows in each process, and as equal a number as possible in each micro-batch.
        first, end = (processes * (rows * at // count) for at in (number, number + 1))
        for mine, assigned in zip(plan, _assigned(bins[first:end], processes), strict=True):
            mine.append(tuple(tuple(one.samples) for one in assigned if one.samples))
    return tuple(map(tuple, plan))


def _best_bins(costs: Sequence[SampleCost], count: int, room: float = math.inf) -> list[_Bin] | None:
    """Return filled bins of the most equal cost, or None if the samples need more bins."""
    found = (_balanced(costs, count, limit, room) for limit in _PIECES)
    return min((bins for bins in found if bins), key=_largest_cost, default=None)


def _padded(
    costs: Sequence[SampleCost], processes: int, micro_batch_tokens: int
) -> tuple[tuple[MicroBatchPlan, ...], ...]:
    order = sorted(range(len(costs)), key=lambda index: -costs[index].tokens)
    plan: list[list[MicroBatchPlan]] = [[] for _ in range(processes)]
    while order:
        rows = max(1, micro_batch_tokens // costs[order[0]].tokens)
        chosen, order = order[: rows * processes], order[rows * processes :]
        bins = [
            _Bin(room=0, cost=costs[index].language + costs[index].towers, samples=[index])
            for index in chosen
        ]
        bins.sort(key=lambda one: -one.cost)
        for mine, assigned in zip(plan, _assigned(bins, processes), strict=True):
            mine.append(tuple(tuple(one.samples) for one in assigned))
    return tuple(map(tuple, plan))


def _assigned(bins: Sequence[_Bin], processes: int) -> list[list[_Bin]]:
    """Assign rows to processes, with numbers and costs as equal as possible; rows come in falling cost."""
    most = math.ceil(len(bins) / processes)
    by_process: list[list[_Bin]] = [[] for _ in range(processes)]
    cheapest = [(0.0, process) for process in range(processes)]
    for one in bins:
        cost, process = heapq.heappop(cheapest)
        by_process[process].append(one)
        if len(by_process[process]) < most:
            heapq.heappush(cheapest, (cost + one.cost, process))
    return by_process


def _balanced(costs: Sequence[SampleCost], count: int, largest: float, room: float) -> list[_Bin] | None:
    """Assign samples to bins: the costliest piece first, each to the cheapest bin with room for it.

    Args:
        costs: Costs of the samples.
        count: Number of bins.
        largest: Largest cost of a piece, relative to the mean cost of a bin.
        room: Tokens of a bin.

    Returns:
        The bins, or None if they are too few.
    """
    pieces = list(_pieces(costs, count, largest, room))
    tokens, total = sum(one.tokens for one in pieces), sum(one.cost for one in pieces)
    # The scarcer of room and time decides which piece comes first.
    pieces.sort(key=lambda one: -max(one.tokens / tokens, one.cost / total))
    bins = [_Bin(room=room) for _ in range(count)]
    cheapest = [(0.0, number) for number in range(count)]
    least_tokens = min(cost.tokens for cost in costs)
    for piece in pieces:
        full = []
        while cheapest and bins[cheapest[0][1]].room < piece.tokens:
            full.append(heapq.heappop(cheapest))
        if not cheapest:
            return None
        number = heapq.heappop(cheapest)[1]
        one = bins[number]
        one.samples.extend(piece.samples)
        one.room -= piece.tokens
        one.cost += piece.language + (0.0 if piece.media in one.media else piece.towers)
        one.media.add(piece.media)
        for entry in (*full, (one.cost, number)):
            if bins[entry[1]].room >= least_tokens:
                heapq.heappush(cheapest, entry)
    return bins


def _pieces(costs: Sequence[SampleCost], count: int, largest: float, room: float) -> Iterator[_Piece]:
    by_media: dict[Hashable, list[int]] = {}
    for index, cost in enumerate(costs):
        by_media.setdefault(cost.media, []).append(index)
    mean = (
        sum(cost.language for cost in costs) + sum(costs[group[0]].towers for group in by_media.values())
    ) / count
    for group in by_media.values():
        start, tokens, total = 0, 0, costs[group[0]].towers
        for place, index in enumerate(group):
            one = costs[index]
            if place > start and (tokens + one.tokens > room or total + one.language > largest * mean):
                yield _piece(costs, group[start:place])
                start, tokens, total = place, 0, one.towers
            tokens, total = tokens + one.tokens, total + one.language
        yield _piece(costs, group[start:])


def _piece(costs: Sequence[SampleCost], samples: Sequence[int]) -> _Piece:
    first = costs[samples[0]]
    return _Piece(
        samples=tuple(samples),
        tokens=sum(costs[index].tokens for index in samples),
        language=sum(costs[index].language for index in samples),
        towers=first.towers,
        media=first.media,
    )


def _largest_cost(bins: Sequence[_Bin] | None) -> float:
    return max(one.cost for one in bins) if bins else math.inf
