"""Training curves of a report."""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from llava_av.plurals import count_of
from llava_av.report.labels import (
    ordered_families,
    ordered_kinds,
)
from llava_av.report.svg import MUTED, SERIES, box, drawing, svg_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Figure", "training_figures"]

_HELD_OUT = "held_out/loss"
_LINE_NAMES = {"loss": "training", _HELD_OUT: "held-out"}
_MAX_POINTS = 400
_LOG_FROM = 50.0
"""Curves with a larger ratio of maximum to minimum get a logarithmic axis; otherwise the end looks flat."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A drawing for an HTML page."""

    title: str
    caption: str
    svg: str
    """An `<svg>` element without scripts, links or metadata; all text in it is escaped."""


@dataclass(frozen=True, kw_only=True)
class _Panel:
    title: str
    note: str = ""
    keys: tuple[str, ...]
    """Names in a line of metrics.jsonl, one curve each."""
    may_log: bool = False
    smooth: bool = True


def training_figures(
    metrics: Sequence[Mapping[str, float]],
    *,
    resumed_from: int | None = None,
    stages: Mapping[str, int] = MappingProxyType({}),
) -> tuple[Figure, ...]:
    """Draw the loss, in total and by family, kind and modality, and other training metrics by step.

    Args:
        metrics: Lines of metrics.jsonl; the last line of a step counts.
        resumed_from: Step of the checkpoint from which the run resumed.
        stages: First step of each stage by name.
    """
    marks = _marks(stages, resumed_from)
    rows = [row for _, row in sorted({int(row["step"]): row for row in metrics}.items())]
    names = {name for row in rows for name in row}
    families = tuple(f"loss/{name}" for name in ordered_families(_children(names, "loss/")))
    kinds = tuple(f"loss/kind/{name}" for name in ordered_kinds(_children(names, "loss/kind/")))
    modalities = tuple(f"loss/modality/{name}" for name in sorted(_children(names, "loss/modality/")))
    held_out = tuple(
        f"{_HELD_OUT}/modality/{name}" for name in sorted(_children(names, f"{_HELD_OUT}/modality/"))
    )
    own = tuple(f"{_HELD_OUT}/dataset/{name}" for name in sorted(_children(names, f"{_HELD_OUT}/dataset/")))
    mix = tuple(f"mix/{name}" for name in sorted(_children(names, "mix/")))
    loss = "Training and held-out loss" if _HELD_OUT in names else "Training loss"
    panels = (
        _Panel(title=loss, keys=("loss", _HELD_OUT), may_log=True),
        _Panel(title="Loss by family of questions", keys=families, may_log=True),
        # If every family has one kind, the kinds would repeat the families.
        _Panel(
            title="Loss by kind of question", keys=kinds if len(kinds) > len(families) else (), may_log=True
        ),
        _Panel(title="Loss by modality", keys=modalities if len(modalities) > 1 else (), may_log=True),
        _Panel(title="Held-out loss by modality", keys=held_out if len(held_out) > 1 else (), may_log=True),
        _Panel(title="Held-out loss by dataset", keys=own, may_log=True),
        _Panel(title="Share of each dataset", note="of the samples of a step", keys=mix),
        _Panel(title="Learning rate", keys=("learning_rate",), smooth=False),
        _Panel(title="Gradient norm", note="before clipping", keys=("grad_norm",)),
        _Panel(title="Throughput", note="tokens per second", keys=("tokens_per_s",)),
        _Panel(title="Model FLOPs utilisation", note="of the GPUs' peak", keys=("mfu",)),
        _Panel(title="Memory", note="MiB", keys=("memory_mib",)),
    )
    figures = (_curves(panel, rows, marks) for panel in panels)
    return tuple(figure for figure in figures if figure)


def _children(names: set[str], prefix: str) -> set[str]:
    rests = {name.removeprefix(prefix) for name in names if name.startswith(prefix)}
    return {rest for rest in rests if "/" not in rest}


def _marks(stages: Mapping[str, int], resumed_from: int | None) -> dict[str, int]:
    """Return the steps that vertical lines mark, by their label."""
    marks = {name: step for name, step in stages.items() if step}
    if resumed_from is not None and resumed_from not in marks.values():
        marks["resumed"] = resumed_from
    return marks


def _curves(panel: _Panel, rows: list[Mapping[str, float]], marks: Mapping[str, int]) -> Figure | None:
    lines = {key: points for key in panel.keys if (points := _finite(rows, key))}
    if not lines:
        return None
    log = panel.may_log and _spans_decades(lines.values())
    notes = (panel.note, "logarithmic" if log else "", _not_finite(rows, panel.keys))
    with drawing(200) as canvas:
        axes = canvas.add_axes(box(46, 30, _room_for_names(lines), 18, 200))
        for key, colour in _colours(lines).items():
            _line(axes, lines[key], colour, panel.smooth)
        _frame_curves(axes, log, int(rows[-1]["step"]))
        if len(lines) > 1:
            _name_lines(axes, lines, log)
        for name, step in marks.items():
            _mark(axes, name, step)
        label = f"{panel.title} over {count_of(len(rows), 'step')}. " + _ends(lines)
        svg = svg_text(canvas, label)
    return Figure(title=panel.title, caption=", ".join(filter(None, notes)), svg=svg)


def _finite(rows: list[Mapping[str, float]], key: str) -> list[tuple[int, float]]:
    return [(int(row["step"]), float(row[key])) for row in rows if _is_finite(row.get(key))]


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _not_finite(rows: list[Mapping[str, float]], keys: Sequence[str]) -> str:
    bad = sum(any(row.get(key) is not None and not _is_finite(row[key]) for key in keys) for row in rows)
    return f"{count_of(bad, 'step')} without a finite value, not drawn" if bad else ""


def _spans_decades(lines: Iterable[list[tuple[int, float]]]) -> bool:
    values = [value for points in lines for _, value in points]
    return min(values) > 0 and max(values) / min(values) > _LOG_FROM


def _colours(names: Iterable[str]) -> dict[str, str]:
    return dict(zip(names, itertools.cycle(SERIES), strict=False))


def _line(axes: "Axes", points: list[tuple[int, float]], colour: str, smooth: bool) -> None:
    """Draw the values faintly, with their running mean on top, because single steps are noisy."""
    thin = _thinned(points)
    steps, values = [step for step, _ in thin], [value for _, value in thin]
    if not smooth or len(points) < 30:
        axes.plot(steps, values, color=colour, linewidth=1.8)
        return
    axes.plot(steps, values, color=colour, linewidth=1.0, alpha=0.35)
    axes.plot(steps, _running_mean(values), color=colour, linewidth=1.8)


def _thinned(points: list[tuple[int, float]]) -> list[tuple[float, float]]:
    """Return at most `_MAX_POINTS` points, each the mean of equally many neighbours."""
    size = math.ceil(len(points) / _MAX_POINTS)
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [
        (sum(step for step, _ in group) / len(group), sum(value for _, value in group) / len(group))
        for group in groups
    ]


def _running_mean(values: list[float]) -> list[float]:
    """Return the mean over a centred window of 1/25 of the curve, narrower towards both ends."""
    half = max(1, len(values) // 50)
    means = []
    for index in range(len(values)):
        reach = min(half, index, len(values) - 1 - index)
        window = values[index - reach : index + reach + 1]
        means.append(sum(window) / len(window))
    return means


def _frame_curves(axes: "Axes", log: bool, last_step: int) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    axes.margins(x=0.0, y=0.08)
    axes.set_xlim(0, max(1, last_step))
    axes.set_xlabel("step", loc="right", labelpad=1)
    axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10], integer=True))
    if log:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(numticks=5))
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        if axes.dataLim.ymin >= 0:
            # The axis starts at zero, so that variations are visible in proportion to the value.
            axes.set_ylim(0.0, 1.08 * axes.dataLim.ymax or 1.0)
        axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))


def _short(value: float) -> str:
    """Return an axis number in at most six characters."""
    if value == 0:
        return "0"
    if abs(value) >= 10_000:
        return f"{value / 1000:.3g}k"
    if abs(value) < 0.001:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}"
    return f"{value:.4g}"


def _line_name(key: str) -> str:
    return _LINE_NAMES.get(key) or key.rsplit("/", 1)[-1].replace("_", " ")


def _room_for_names(lines: Iterable[str]) -> float:
    """Return the pixels at the right for the names of the curves; a single curve has no name."""
    names = [_line_name(key) for key in lines]
    return 14 if len(names) == 1 else min(110, max(66, 10 + 5.5 * max(map(len, names))))


def _name_lines(axes: "Axes", lines: dict[str, list[tuple[int, float]]], log: bool) -> None:
    """Write the name of each curve at its right end, with a minimum distance between names."""
    low, high = axes.get_ylim()

    def height(value: float) -> float:
        if log:
            return math.log(value / low) / math.log(high / low)
        return (value - low) / (high - low)

    ends = {key: height(_running_mean([value for _, value in _thinned(points)])[-1])
            for key, points in lines.items()}  # fmt: skip
    colours = _colours(lines)
    floor = -0.02
    for key in sorted(lines, key=lambda key: ends[key]):
        floor = max(floor, ends[key])
        axes.text(1.02, floor, _line_name(key), transform=axes.transAxes, color=colours[key],
                  va="center", ha="left")  # fmt: skip
        floor += 0.1


def _mark(axes: "Axes", name: str, step: int) -> None:
    axes.axvline(step, color=MUTED, linewidth=1.0, dashes=(2, 2))
    axes.text(step, 1.02, name, transform=axes.get_xaxis_transform(), color=MUTED, va="bottom", ha="center")


def _ends(lines: Mapping[str, list[tuple[int, float]]]) -> str:
    return "; ".join(
        f"{key}: {_short(points[0][1])} at the first step, {_short(points[-1][1])} at the last"
        for key, points in lines.items()
    )
