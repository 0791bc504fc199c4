"""The words and number formats that figures and page share."""

from collections.abc import Iterable

from llava_av.datasets.schema import family
from llava_av.evaluation.ablations import ABLATIONS
from llava_av.evaluation.summary import FAMILIES

__all__ = [
    "ABLATION_LABELS",
    "ablation_label",
    "duration",
    "file_size",
    "in_order",
    "kind_label",
    "number",
    "ordered_ablations",
    "ordered_families",
    "ordered_kinds",
]

ABLATION_LABELS = {ablation.name: ablation.label for ablation in ABLATIONS}


def ablation_label(name: str) -> str:
    """The heading of an ablation; an unknown one keeps its name."""
    return ABLATION_LABELS.get(name, name.replace("_", " "))


def in_order(names: Iterable[str], order: Iterable[str]) -> list[str]:
    """The known names in `order`, then the rest by name, each once."""
    given = set(names)
    known = [name for name in order if name in given]
    return known + sorted(given - set(known))


def ordered_ablations(names: Iterable[str]) -> list[str]:
    """Ablations from everything to nothing."""
    return in_order(names, ABLATION_LABELS)


def ordered_families(names: Iterable[str]) -> list[str]:
    """Question families from one modality to both."""
    return in_order(names, FAMILIES)


def ordered_kinds(names: Iterable[str]) -> list[str]:
    """Kinds of question, those of a family together."""
    given = sorted(set(names))
    return [kind for name in ordered_families(map(family, given)) for kind in given if family(kind) == name]


def kind_label(kind: str) -> str:
    """Such as `colour` for `joint_colour`, to stand below the family's name."""
    return kind.removeprefix(f"{family(kind)}_").replace("_", " ")


def duration(seconds: float) -> str:
    """Such as `0.4 s`, `12.3 s`, `2 min 05 s`, `3 h 07 min`."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def file_size(size: int) -> str:
    """Decimal units, such as `812 B`, `14 kB`, `3.2 MB`."""
    if size < 1000:
        return f"{size} B"
    if size < 999_500:
        return f"{size / 1e3:.0f} kB"
    return f"{size / 1e6:.1f} MB"


def number(value: float | None) -> str:
    """Four significant digits; a dash where there is no number."""
    return "–" if value is None else f"{value:.4g}"
