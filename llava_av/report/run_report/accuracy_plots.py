"""Accuracy bars of a report."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from llava_av.report.labels import (
    ablation_label,
    kind_label,
    ordered_ablations,
    ordered_families,
    ordered_kinds,
)
from llava_av.report.run_report.plots import Figure
from llava_av.report.svg import ACCENT, INK, NEUTRAL, box, drawing, svg_text
from llava_av.runs import Accuracy
from llava_av.vocabulary import Ablation, family_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["accuracy_figures", "kind_figures"]

_KIND_CHARACTERS = 26


def accuracy_figures(accuracy: Mapping[str, Mapping[str, Accuracy]]) -> tuple[Figure, ...]:
    """Draw one panel per question family, with a bar and a 95 % interval for each ablation, and chance.

    Args:
        accuracy: Accuracies by ablation, then by family.
    """
    families = ordered_families(family for rows in accuracy.values() for family in rows)
    return tuple(_bars(family, accuracy) for family in families)


def kind_figures(kinds: Mapping[str, Mapping[str, Accuracy]]) -> tuple[Figure, ...]:
    """Draw one panel per ablation, with a bar, a 95 % interval and chance for each kind of question.

    Args:
        kinds: Accuracies by ablation, then by kind. If every family has one kind, there is no panel.
    """
    names = ordered_kinds(kind for row in kinds.values() for kind in row)
    if len(names) == len({family_of(name) for name in names}):
        return ()
    return tuple(_kind_bars(name, names, kinds[name]) for name in ordered_ablations(kinds))


def _bars(family: str, accuracy: Mapping[str, Mapping[str, Accuracy]]) -> Figure:
    rows = {name: accuracy[name][family] for name in ordered_ablations(accuracy) if family in accuracy[name]}
    height = 54 + 34 * len(rows)
    # All ablations have the same questions, so each family has one chance level.
    chance = next((row.chance for row in rows.values() if row.chance is not None), None)
    with drawing(height) as canvas:
        axes = canvas.add_axes(box(106, 38, 56, 4, height))
        for place, (name, row) in enumerate(rows.items()):
            _bar(axes, place, row, ACCENT if name == Ablation.AUDIO_VISUAL else NEUTRAL, strong=place == 0)
        _frame_bars(axes, [ablation_label(name) for name in rows], chance)
        label = f"Accuracy on {family} questions. " + "; ".join(
            f"{ablation_label(name)}: {row.value:.2f}, interval {row.low:.2f} to {row.high:.2f}"
            for name, row in rows.items()
        )
        svg = svg_text(canvas, label + ("" if chance is None else f"; chance {chance:.3g}"))
    counts = sorted({row.n for row in rows.values()})
    return Figure(
        title=f"{family.capitalize()} questions",
        caption="n = " + (f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"),
        svg=svg,
    )


def _kind_bars(ablation: str, names: Sequence[str], kinds: Mapping[str, Accuracy]) -> Figure:
    rows = {name: kinds[name] for name in names if name in kinds}
    height = 34 + 24 * len(rows)
    words = {name: _kind_words(name) for name in rows}
    with drawing(height) as canvas:
        room = min(150, 12 + 5.6 * max(map(len, words.values())))
        axes = canvas.add_axes(box(room, 22, 50, 4, height))
        for place, row in enumerate(rows.values()):
            _bar(axes, place, row, ACCENT if ablation == Ablation.AUDIO_VISUAL else NEUTRAL, strong=False)
            if row.chance is not None:
                axes.plot([row.chance, row.chance], [place - 0.4, place + 0.4], color=INK, linewidth=1.2,
                          dashes=(2, 1.5))  # fmt: skip
        _frame_bars(axes, list(words.values()), None)
        label = f"Accuracy by kind of question, {ablation_label(ablation)}. " + "; ".join(
            f"{words[name]}: {row.value:.2f}, interval {row.low:.2f} to {row.high:.2f}"
            for name, row in rows.items()
        )
        svg = svg_text(canvas, label)
    return Figure(title=ablation_label(ablation), caption="by kind of question", svg=svg)


def _kind_words(kind: str) -> str:
    """Return a label such as `joint: colour`, or the family alone if it has no kinds."""
    own = kind_label(kind)
    words = own if own == family_of(kind) else f"{family_of(kind)}: {own}"
    return words if len(words) <= _KIND_CHARACTERS else f"{words[: _KIND_CHARACTERS - 1]}…"


def _bar(axes: "Axes", place: int, row: Accuracy, colour: str, *, strong: bool) -> None:
    axes.barh(place, row.value, height=0.52, color=colour, alpha=0.85, linewidth=0)
    axes.plot([row.low, row.high], [place, place], color=INK, linewidth=1.4, solid_capstyle="butt")
    for end in (row.low, row.high):
        axes.plot([end, end], [place - 0.13, place + 0.13], color=INK, linewidth=1.4, clip_on=False)
    axes.text(1.27, place, f"{row.value:.3f}", va="center", ha="right", fontweight="bold" if strong else None)


def _frame_bars(axes: "Axes", labels: list[str], chance: float | None) -> None:
    axes.set_xlim(0, 1)
    axes.set_ylim(len(labels) - 0.45, -0.55)
    axes.set_yticks(range(len(labels)), labels)
    axes.tick_params(axis="y", labelcolor=INK, pad=6)
    axes.grid(visible=False, axis="y")
    axes.grid(visible=True, axis="x")
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "", "0.5", "", "1"])
    if chance is not None:
        axes.axvline(chance, color=INK, linewidth=1.2, dashes=(3, 2))
        axes.annotate(
            f"chance {chance:.3g}",
            (chance, 0),
            xycoords=axes.get_xaxis_transform(),
            xytext=(0, -19),
            textcoords="offset points",
            ha="center",
            va="top",
        )
