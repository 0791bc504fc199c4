"""What a run cost: time, processes and tokens of training and evaluation."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llava_av.report.labels import duration
from llava_av.report.run_report.inputs import ReportInputs

__all__ = ["CostRow", "StepRow", "cost_rows", "step_rows"]


@dataclass(frozen=True, kw_only=True)
class StepRow:
    """A step's duration and its share of the longest one, in per cent."""

    name: str
    seconds: float
    share: float


@dataclass(frozen=True, kw_only=True)
class CostRow:
    """One number of what was spent."""

    name: str
    value: str
    note: str = ""


def step_rows(seconds: Mapping[str, float]) -> tuple[StepRow, ...]:
    """Steps in the order they were given."""
    longest = max(seconds.values(), default=0.0) or 1.0
    return tuple(
        StepRow(name=name, seconds=value, share=round(100 * value / longest, 2))
        for name, value in seconds.items()
    )


def cost_rows(inputs: ReportInputs) -> tuple[CostRow, ...]:
    """Everything that is known of the cost beside the steps' durations."""
    return (
        *_training(inputs.train, inputs.metrics),
        *_evaluation(inputs.evaluation.get("cost") or {}),
    )


def _training(train: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]]) -> list[CostRow]:
    rows = []
    if train.get("seconds") is not None and train.get("processes"):
        hours = train["seconds"] * train["processes"] / 3600
        note = (
            f"{train['processes']} × {duration(train['seconds'])}; where there are GPUs, each process has one"
        )
        rows.append(CostRow(name="Training", value=f"{hours:.2f} process-hours", note=note))
    steps = list({row["step"]: row for row in metrics}.values())
    timed = [row for row in steps if row.get("tokens_per_s") and row.get("step_s")]
    if timed:
        tokens = sum(row["tokens_per_s"] * row["step_s"] for row in timed)
        rate = statistics.median(row["tokens_per_s"] for row in timed)
        rows.append(
            CostRow(
                name="Tokens trained on", value=_counted(tokens), note=f"{rate:,.0f} a second in the median"
            )
        )
        waited = sum(row.get("data_wait_s", 0.0) for row in timed) / sum(row["step_s"] for row in timed)
        rows.append(
            CostRow(name="Waiting for data", value=f"{100 * waited:.1f} %", note="of training's time")
        )
    memory = max((row["memory_mib"] for row in steps if row.get("memory_mib")), default=None)
    if memory is not None:
        rows.append(CostRow(name="Memory", value=f"{memory:,.0f} MiB", note="of all processes, at most"))
    return rows


def _evaluation(cost: Mapping[str, Any]) -> list[CostRow]:
    if not cost:
        return []
    rate = f"{cost['tokens_per_s']:,.0f} a second of one process" if cost.get("tokens_per_s") else ""
    processes = cost.get("processes", 1)
    return [
        CostRow(
            name="Evaluation",
            value=f"{cost['seconds'] / 3600:.2f} process-hours",
            note=f"{duration(cost['seconds'])} of the model, processes: {processes}",
        ),
        CostRow(
            name="Tokens evaluated on",
            value=f"{_counted(cost['prompt_tokens'])} read, {_counted(cost['new_tokens'])} written",
            note=rate,
        ),
    ]


def _counted(number: float) -> str:
    """Such as `812`, `14.3 k`, `2.05 M`."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g} {letter}"
    return f"{number:.0f}"
