"""Labels and number formats of figures, tables and cards."""

from collections.abc import Iterable

from llava_av.vocabulary import Ablation, QuestionFamily, family_of, in_order

__all__ = [
    "ablation_label",
    "duration",
    "file_size",
    "kind_label",
    "number",
    "ordered_ablations",
    "ordered_families",
    "ordered_kinds",
]


def ablation_label(name: str) -> str:
    """Return the label of an ablation; an unknown ablation keeps its name."""
    return Ablation(name).label if name in set(Ablation) else name.replace("_", " ")


def ordered_ablations(names: Iterable[str]) -> list[str]:
    """Return ablations in the order of tables, from all modalities to none, then the control."""
    return in_order(names, Ablation)


def ordered_families(names: Iterable[str]) -> list[str]:
    """Return question families in the order of tables, from one modality to both."""
    return in_order(names, QuestionFamily)


def ordered_kinds(names: Iterable[str]) -> list[str]:
    """Return kinds of question, grouped by family."""
    given = sorted(set(names))
    return [
        kind for name in ordered_families(map(family_of, given)) for kind in given if family_of(kind) == name
    ]


def kind_label(kind: str) -> str:
    """Return a kind without its family: `colour` for `joint_colour`."""
    return kind.removeprefix(f"{family_of(kind)}_").replace("_", " ")


def duration(seconds: float) -> str:
    """Return a duration, such as `0.4 s`, `12.3 s`, `2 min 05 s`, `3 h 07 min`."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def file_size(size: int) -> str:
    """Return a size in decimal units, such as `812 B`, `14 kB`, `3.2 MB`."""
    if size < 1000:
        return f"{size} B"
    if size < 999_500:
        return f"{size / 1e3:.0f} kB"
    return f"{size / 1e6:.1f} MB"


def number(value: float | None) -> str:
    """Return a number with four significant digits, or a dash for None."""
    return "–" if value is None else f"{value:.4g}"
