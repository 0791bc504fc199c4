"""The rows of the report's tables and the words of its head, apart from how they look."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llava_av.datasets.schema import family as family_of
from llava_av.evaluation.ablations import SHUFFLED_AUDIO
from llava_av.report.labels import (
    ablation_label,
    duration,
    kind_label,
    ordered_ablations,
    ordered_families,
    ordered_kinds,
)
from llava_av.report.run_report.inputs import PredictionRow, ReportInputs
from llava_av.report.run_report.summary import Accuracy, Summary

__all__ = [
    "AccuracyRow",
    "LineageRow",
    "Tally",
    "TaskTable",
    "Tile",
    "Verdict",
    "accuracy_table",
    "lineage_rows",
    "modality_table",
    "tally",
    "task_tables",
    "tiles",
    "verdict",
]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The first thing a reader sees."""

    state: str
    """`passed`, `failed` or `open`."""
    heading: str
    lines: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Tile:
    """One of the few numbers that a hurried reader takes away."""

    label: str
    value: str
    detail: str


@dataclass(frozen=True, kw_only=True)
class AccuracyRow:
    """A row of the table of accuracies."""

    questions: str
    """Name of a family, or of a kind in the family above it."""
    is_kind: bool
    rows: int
    """Rows of these questions, on the first of them; 0 on the others."""
    ablation: str
    accuracy: Accuracy
    loss: float | None


@dataclass(frozen=True, kw_only=True)
class TaskTable:
    """What the model came to on one task besides what was held out."""

    name: str
    about: str
    """Of which version, and on which data."""
    rows: tuple[AccuracyRow, ...]


@dataclass(frozen=True, kw_only=True)
class LineageRow:
    """A fact of where the model comes from."""

    name: str
    value: str
    note: str = ""
    code: bool = True
    """Whether the value is an identifier rather than words."""


@dataclass(frozen=True, kw_only=True)
class Tally:
    """What was asked with all modalities present."""

    questions: int
    wrong: int
    clips: int


def verdict(summary: Summary, moved: Sequence[str]) -> Verdict:
    """The gate's outcome in words, with every reason it gave."""
    gate, version = summary.gate, summary.model_version
    if gate.passed is None:
        return Verdict(state="open", heading="Gate not run", lines=gate.reasons or ("No reason was given.",))
    if not gate.passed:
        return Verdict(state="failed", heading="Gate failed", lines=gate.reasons)
    name = f"{version.name} version {version.version}"
    said = f"{name} is now {' and '.join(moved)}." if moved else f"No alias was moved to {name}."
    return Verdict(state="passed", heading="Gate passed", lines=(*gate.reasons, said))


def tiles(inputs: ReportInputs) -> tuple[Tile, ...]:
    """Accuracy with everything, the best without, training, and the registered version."""
    found = [*_accuracy_tiles(inputs.summary.accuracy), *_training_tile(inputs.train)]
    version = inputs.summary.model_version
    if version.name:
        aliases = ", ".join(version.aliases) or "no alias"
        found.append(
            Tile(
                label="Registered as", value=f"version {version.version}", detail=f"{version.name}, {aliases}"
            )
        )
    return tuple(found)


def _accuracy_tiles(accuracy: Mapping[str, Mapping[str, Accuracy]]) -> list[Tile]:
    families = ordered_families(family for rows in accuracy.values() for family in rows)
    if not families:
        return []
    # The joint questions are the ones that need both modalities; a user's dataset has one family.
    family = "joint" if "joint" in families else families[0]
    rows = {name: by_family[family] for name, by_family in accuracy.items() if family in by_family}
    rows.pop(SHUFFLED_AUDIO.name, None)  # nothing is removed there
    found = []
    if "av" in rows:
        full = rows.pop("av")
        detail = f"95 % interval {full.low:.3f} to {full.high:.3f}, n = {full.n:,}"
        found.append(Tile(label=f"Accuracy, {family} questions", value=f"{full.value:.3f}", detail=detail))
    if rows:
        name = max(ordered_ablations(rows), key=lambda name: rows[name].value)
        best = rows[name]
        chance = "" if best.chance is None else f", chance {best.chance:.3g}"
        label = "Best with a modality removed"
        found.append(Tile(label=label, value=f"{best.value:.3f}", detail=ablation_label(name) + chance))
    return found


def _training_tile(train: Mapping[str, Any]) -> list[Tile]:
    if train.get("seconds") is None:
        return []
    steps = f"{train['steps']:,} steps" if train.get("steps") else ""
    processes = f"{train['processes']} processes" if train.get("processes") else ""
    parts = filter(None, (steps, processes, train.get("engine")))
    return [Tile(label="Training", value=duration(train["seconds"]), detail=", ".join(parts))]


def accuracy_table(evaluation: Mapping[str, Any]) -> tuple[AccuracyRow, ...]:
    """Rows by family, each followed by its kinds where it has several, then by ablation."""
    accuracy = {
        name: {family: Accuracy.model_validate(cell) for family, cell in row.items()}
        for name, row in evaluation["accuracy"].items()
    }
    losses, kinds = evaluation.get("loss") or {}, evaluation.get("kinds") or {}
    rows: list[AccuracyRow] = []
    for family in ordered_families(family for by_family in accuracy.values() for family in by_family):
        cells = {name: by_family[family] for name, by_family in accuracy.items() if family in by_family}
        rows += _rows(family, cells, {name: losses.get(name, {}).get(family) for name in cells})
        own = ordered_kinds(kind for row in kinds.values() for kind in row if family_of(kind) == family)
        for kind in own if len(own) > 1 else ():
            given = {name: row[kind] for name, row in kinds.items() if kind in row}
            cells = {name: Accuracy.model_validate(cell) for name, cell in given.items()}
            found = {name: cell.get("loss") for name, cell in given.items()}
            rows += _rows(kind_label(kind), cells, found, is_kind=True)
    return tuple(rows)


def modality_table(evaluation: Mapping[str, Any]) -> tuple[AccuracyRow, ...]:
    """A row for what samples hold, such as `video, audio`, given everything; empty if it was not noted."""
    cells = evaluation.get("modalities") or {}
    return tuple(
        row
        for name, cell in sorted(cells.items())
        for row in _rows(name.replace("_", ", "), {"av": Accuracy.model_validate(cell)}, {"av": cell["loss"]})
    )


def task_tables(evaluation: Mapping[str, Any]) -> tuple[TaskTable, ...]:
    """A table for each task of `tasks`, by name."""
    return tuple(
        TaskTable(
            name=name,
            about=f"Version {found['task']['version']}, data commit {found['dataset']['commit'][:12]}",
            rows=accuracy_table(found),
        )
        for name, found in sorted((evaluation.get("tasks") or {}).items())
    )


def _rows(
    questions: str,
    cells: Mapping[str, Accuracy],
    losses: Mapping[str, float | None],
    *,
    is_kind: bool = False,
) -> list[AccuracyRow]:
    return [
        AccuracyRow(
            questions=questions,
            is_kind=is_kind,
            rows=0 if place else len(cells),
            ablation=name,
            accuracy=cells[name],
            loss=losses.get(name),
        )
        for place, name in enumerate(ordered_ablations(cells))
    ]


def tally(predictions: Sequence[PredictionRow]) -> Tally:
    """Counts over the answers that were given with video and audio."""
    full = [row for row in predictions if row.ablation == "av"]
    return Tally(
        questions=len(full),
        wrong=sum(not row.correct for row in full),
        clips=len({row.clip for row in full if row.clip}),
    )


def lineage_rows(inputs: ReportInputs) -> tuple[LineageRow, ...]:
    """Everything that fixes the run, but recipe and packages, which are long."""
    summary, lineage = inputs.summary, inputs.lineage
    dataset, version = lineage.get("dataset") or {}, summary.model_version
    environment = lineage.get("environment") or {}
    rows = [
        LineageRow(name="Dataset commit", value=summary.dataset_commit, note=str(dataset.get("name") or "")),
        *_code_rows(lineage),
        LineageRow(name="Seed", value=_text(lineage.get("seed"))),
        LineageRow(name="Checkpoint", value=summary.checkpoint.uri),
        LineageRow(name="Checkpoint digest", value=summary.checkpoint.digest),
    ]
    if version.name:
        aliases = ", ".join(version.aliases) or "no alias"
        rows.append(LineageRow(name="Model version", value=f"{version.name} {version.version}", note=aliases))
    experiment = lineage.get("experiment") or {}
    if experiment:
        rows.append(
            LineageRow(
                name="Experiment record",
                value=_text(experiment.get("id")),
                note=_short(experiment.get("sha256")),
            )
        )
    rows += [
        LineageRow(name=label, value=_text(value), code=code)
        for label, value, code in (
            ("Run", inputs.train.get("run"), True),
            ("MLflow run", inputs.train.get("mlflow_run_id"), True),
            ("Image", environment.get("image"), True),
            ("Python", environment.get("python"), False),
            ("Platform", environment.get("platform"), False),
        )
        if value
    ]
    return tuple(rows)


def _code_rows(lineage: Mapping[str, Any]) -> list[LineageRow]:
    git = lineage.get("git") or {}
    if git.get("commit"):
        state = "with uncommitted changes, kept as a patch" if git.get("dirty") else "clean"
        rows = [LineageRow(name="Git commit", value=git["commit"], note=state)]
    else:
        rows = [LineageRow(name="Git commit", value="not in a git checkout", code=False)]
    if git.get("patch_sha256"):
        rows.append(LineageRow(name="Patch", value=git["patch_sha256"], note="sha256"))
    if lineage.get("code_digest"):
        rows.append(LineageRow(name="Code digest", value=lineage["code_digest"]))
    return rows


def _short(digest: Any) -> str:
    return f"sha256 {str(digest)[:12]}…" if digest else ""


def _text(value: Any) -> str:
    return "not recorded" if value is None else str(value)
