"""Cost of a run: time, processes and tokens of training and evaluation."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from llava_av.report.labels import duration
from llava_av.report.run_report.inputs import ReportInputs
from llava_av.runs import EvaluationCost, TrainingResult

__all__ = ["CostRow", "StepRow", "cost_rows", "step_rows"]


@dataclass(frozen=True, kw_only=True)
class StepRow:
    """A step's duration and its share of the longest one, in percent."""

    name: str
    seconds: float
    share: float


@dataclass(frozen=True, kw_only=True)
class CostRow:
    """One number of the cost."""

    name: str
    value: str
    note: str = ""


def step_rows(seconds: Mapping[str, float]) -> tuple[StepRow, ...]:
    """Return a row for each step, in the order given."""
    longest = max(seconds.values(), default=0.0) or 1.0
    return tuple(
        StepRow(name=name, seconds=value, share=round(100 * value / longest, 2))
        for name, value in seconds.items()
    )


def cost_rows(inputs: ReportInputs) -> tuple[CostRow, ...]:
    """Return all known costs except the durations of steps."""
    return (
        *(_training(inputs.train) if inputs.train is not None else ()),
        *_journal(inputs.metrics),
        *(_evaluation(inputs.evaluation.cost) if inputs.evaluation.cost is not None else ()),
    )


def _training(train: TrainingResult) -> Iterator[CostRow]:
    hours = train.seconds * train.processes / 3600
    note = f"{train.processes} × {duration(train.seconds)}; on GPUs, one per process"
    yield CostRow(name="Training", value=f"{hours:.2f} process-hours", note=note)


def _journal(metrics: Sequence[Mapping[str, float]]) -> Iterator[CostRow]:
    steps = list({row["step"]: row for row in metrics}.values())
    timed = [row for row in steps if row.get("tokens_per_s") and row.get("step_s")]
    if timed:
        tokens = sum(row["tokens_per_s"] * row["step_s"] for row in timed)
        rate = statistics.median(row["tokens_per_s"] for row in timed)
        yield CostRow(name="Tokens trained on", value=_counted(tokens), note=f"median {rate:,.0f} per second")
        seconds = sum(row["step_s"] for row in timed)
        for name, column in (("data", "data_wait_s"), ("checkpoints", "checkpoint_stall_s")):
            waited = sum(row.get(column, 0.0) for row in timed) / seconds
            yield CostRow(name=f"Waiting for {name}", value=f"{100 * waited:.1f} %", note="of training time")
        yield from _utilisation(timed)
    memory = max((row["memory_mib"] for row in steps if row.get("memory_mib")), default=None)
    if memory is not None:
        yield CostRow(name="Memory", value=f"{memory:,.0f} MiB", note="maximum, sum of all processes")


def _utilisation(rows: Sequence[Mapping[str, float]]) -> Iterator[CostRow]:
    """Yield the shares of GPUs' peak and of padding; none for runs of earlier versions."""
    shares = [row["mfu"] for row in rows if "mfu" in row]
    if shares:
        value = f"{100 * statistics.median(shares):.1f} %"
        yield CostRow(name="Model FLOPs utilisation", value=value, note="median of the steps")
    padded = [row["padding_share"] for row in rows if "padding_share" in row]
    if padded:
        value = f"{100 * statistics.fmean(padded):.1f} %"
        yield CostRow(name="Padding", value=value, note="of the positions of the language model")


def _evaluation(cost: EvaluationCost) -> Iterator[CostRow]:
    rate = f"{cost.tokens_per_s:,.0f} per second and process" if cost.tokens_per_s else ""
    yield CostRow(
        name="Evaluation",
        value=f"{cost.seconds / 3600:.2f} process-hours",
        note=f"{duration(cost.seconds)} of model time, processes: {cost.processes}",
    )
    yield CostRow(
        name="Tokens evaluated on",
        value=f"{_counted(cost.prompt_tokens)} prompt, {_counted(cost.new_tokens)} generated",
        note=rate,
    )


def _counted(number: float) -> str:
    """Return a number such as `812`, `14.3 k`, `2.05 M`."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g} {letter}"
    return f"{number:.0f}"
