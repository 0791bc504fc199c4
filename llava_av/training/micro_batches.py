"""Division of a step's samples into micro-batches that take equally long in all processes.

All processes compute the same plan from the sizes of all samples of the step, before anything is decoded.
Samples about the same media stay together where balance allows, because a clip goes through the towers once
in each micro-batch.

The processes wait for each other in every micro-batch, as sharded weights are gathered by all of them
together. The plan therefore balances each micro-batch over the processes, not only their sums: rows of
similar cost are computed at the same time.

`row_filling` fills the rows: it cuts the samples into pieces and assigns each piece to the cheapest row with
room for it. The size of the pieces is chosen here: large pieces save time in the towers, small ones fill rows
better. The plan of the shortest step is used.
"""

import heapq
import math
from collections.abc import Sequence

from llava_av.training.row_filling import FilledRow, SampleCost, StepCosts, fill_rows

__all__ = ["MicroBatchPlan", "SampleCost", "plan_micro_batches", "useful_share"]

MicroBatchPlan = tuple[tuple[int, ...], ...]
"""Indices of the samples of each row, one per row without packing. Empty if a process has no sample."""

_WHOLE_CLIPS, _SINGLE_SAMPLES = math.inf, 0.0
_PIECES = (1.0, 0.5, 0.25, 0.125)
"""Largest cost of a piece with several samples about the same media, relative to the mean cost of a row."""
_GOOD = 0.98
"""Useful share from which smaller pieces are not tried."""


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
        found = _shortest(StepCosts.of(costs), processes, 1, 1, math.inf)
        assert found is not None, "rows without a limit take every sample"
        return tuple((tuple((index,) for row in mine[0] for index in row),) for mine in found)
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
    step = StepCosts.of(costs)
    rows = max(1, math.ceil(sum(step.tokens.tolist()) / (processes * length)))
    while True:
        per_micro_batch = rows if micro_batch_tokens is None else max(1, micro_batch_tokens // length)
        found = _shortest(step, processes, rows, math.ceil(rows / per_micro_batch), length)
        if found is not None:
            return found
        rows += 1


def _shortest(
    step: StepCosts, processes: int, rows: int, micro_batches: int, room: float
) -> tuple[tuple[MicroBatchPlan, ...], ...] | None:
    """Return the plan of the shortest step, or None if the samples need more rows.

    Args:
        step: Costs of the samples.
        processes: Number of processes.
        rows: Rows of each process.
        micro_batches: Micro-batches of each process.
        room: Tokens of a row.
    """
    best, shortest = None, math.inf
    for largest in (_WHOLE_CLIPS, _SINGLE_SAMPLES, *_PIECES):
        filled = fill_rows(step, processes * rows, largest, room)
        if filled is None:
            if largest == _SINGLE_SAMPLES and best is None:
                return None
            continue
        plan, duration = _assigned_in_order(filled, processes, rows, micro_batches)
        if duration < shortest:
            best, shortest = plan, duration
        is_good = sum(row.cost for row in filled) >= _GOOD * processes * duration
        if is_good and largest != _SINGLE_SAMPLES:
            break
    return best


def _assigned_in_order(
    filled: list[FilledRow], processes: int, rows: int, micro_batches: int
) -> tuple[tuple[tuple[MicroBatchPlan, ...], ...], float]:
    """Return the plan that computes rows in the order of their costs, and the duration of its step."""
    filled = sorted(filled, key=lambda row: -row.cost)
    plan: list[list[MicroBatchPlan]] = [[] for _ in range(processes)]
    duration = 0.0
    for number in range(micro_batches):
        # Equally many rows in each process, and as equal a number as possible in each micro-batch.
        first, end = (processes * (rows * at // micro_batches) for at in (number, number + 1))
        assigned = _assigned(filled[first:end], processes)
        duration += max(sum(row.cost for row in every) for every in assigned)
        for mine, every in zip(plan, assigned, strict=True):
            mine.append(tuple(tuple(row.samples) for row in every if row.samples))
    return tuple(map(tuple, plan)), duration


def _padded(
    costs: Sequence[SampleCost], processes: int, micro_batch_tokens: int
) -> tuple[tuple[MicroBatchPlan, ...], ...]:
    order = sorted(range(len(costs)), key=lambda index: -costs[index].tokens)
    plan: list[list[MicroBatchPlan]] = [[] for _ in range(processes)]
    first = 0
    while first < len(order):
        rows = max(1, micro_batch_tokens // costs[order[first]].tokens)
        chosen = order[first : first + rows * processes]
        first += len(chosen)
        filled = [FilledRow([index], costs[index].language + costs[index].towers) for index in chosen]
        filled.sort(key=lambda row: -row.cost)
        for mine, assigned in zip(plan, _assigned(filled, processes), strict=True):
            mine.append(tuple(tuple(row.samples) for row in assigned))
    return tuple(map(tuple, plan))


def _assigned(filled: Sequence[FilledRow], processes: int) -> list[list[FilledRow]]:
    """Assign rows to processes, with numbers and costs as equal as possible; rows come in falling cost."""
    most = math.ceil(len(filled) / processes)
    by_process: list[list[FilledRow]] = [[] for _ in range(processes)]
    cheapest = [(0.0, process) for process in range(processes)]
    for row in filled:
        cost, process = heapq.heappop(cheapest)
        by_process[process].append(row)
        if len(by_process[process]) < most:
            heapq.heappush(cheapest, (cost + row.cost, process))
    return by_process
