"""Content of the tables and of the header of a report, without layout."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from llava_av.plurals import count_of
from llava_av.recipe import Recipe
from llava_av.report.labels import (
    ablation_label,
    duration,
    kind_label,
    ordered_ablations,
    ordered_families,
    ordered_kinds,
)
from llava_av.report.run_report.inputs import ReportInputs
from llava_av.runs import (
    Accuracy,
    EvaluationResult,
    Lineage,
    Prediction,
    Scores,
    Summary,
    TrainedStage,
    TrainingResult,
)
from llava_av.vocabulary import Ablation, QuestionFamily, family_of

__all__ = [
    "AccuracyRow",
    "LineageRow",
    "StageRow",
    "Tally",
    "TaskTable",
    "Tile",
    "Verdict",
    "accuracy_table",
    "lineage_rows",
    "modality_table",
    "stage_table",
    "tally",
    "task_tables",
    "tiles",
    "verdict",
]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Decision of the gate at the top of the page."""

    state: str
    """`passed`, `failed` or `open`."""
    heading: str
    lines: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Tile:
    """One of the key numbers at the top of the page."""

    label: str
    value: str
    detail: str


@dataclass(frozen=True, kw_only=True)
class AccuracyRow:
    """A row of a table of accuracies."""

    questions: str
    """Name of a family, or of a kind of the preceding family."""
    is_kind: bool
    rows: int
    """Number of rows for these questions in their first row, otherwise 0."""
    ablation: str
    accuracy: Accuracy
    loss: float | None


@dataclass(frozen=True, kw_only=True)
class TaskTable:
    """Accuracies on one task other than the held-out split."""

    name: str
    about: str
    """Version of the task and commit of its data."""
    rows: tuple[AccuracyRow, ...]


@dataclass(frozen=True, kw_only=True)
class LineageRow:
    """One fact of the lineage."""

    name: str
    value: str
    note: str = ""
    code: bool = True
    """True for an identifier, false for words."""


@dataclass(frozen=True, kw_only=True)
class StageRow:
    """A row of the table of training stages."""

    name: str
    steps: str
    """First and last step, counted from 0."""
    trained: str
    """Trained parts; empty if the recipe is not known."""
    learning_rate: str
    held_out: str
    """Lowest held-out loss and its step; empty without one."""
    checkpoint: str
    digest: str


@dataclass(frozen=True, kw_only=True)
class Tally:
    """Numbers of questions, wrong answers and clips, with all modalities."""

    questions: int
    wrong: int
    clips: int


def verdict(summary: Summary, moved: Sequence[str]) -> Verdict:
    """Return the decision of the gate with its reasons."""
    gate, version = summary.gate, summary.model_version
    if gate.passed is None:
        return Verdict(state="open", heading="Gate not run", lines=gate.reasons or ("No reason was given.",))
    if not gate.passed:
        return Verdict(state="failed", heading="Gate failed", lines=gate.reasons)
    name = f"{version.name} version {version.version}"
    alias = f"{name} is now {' and '.join(moved)}." if moved else f"No alias was moved to {name}."
    return Verdict(state="passed", heading="Gate passed", lines=(*gate.reasons, alias))


def tiles(inputs: ReportInputs) -> tuple[Tile, ...]:
    """Return tiles for accuracy, the best ablation, training and the registered version."""
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
    # Joint questions need both modalities; a dataset of a user has one family.
    family = QuestionFamily.JOINT if QuestionFamily.JOINT in families else families[0]
    rows = {name: by_family[family] for name, by_family in accuracy.items() if family in by_family}
    rows.pop(Ablation.SHUFFLED_AUDIO, None)  # It removes nothing.
    found = []
    full = rows.pop(Ablation.AUDIO_VISUAL, None)
    if full is not None:
        detail = f"95\u00a0% interval {full.low:.3f} to {full.high:.3f}, n = {full.n:,}"
        found.append(Tile(label=f"Accuracy, {family} questions", value=f"{full.value:.3f}", detail=detail))
    if rows:
        name = max(ordered_ablations(rows), key=lambda name: rows[name].value)
        best = rows[name]
        chance = "" if best.chance is None else f", chance {best.chance:.3g}"
        label = "Best with a modality removed"
        found.append(Tile(label=label, value=f"{best.value:.3f}", detail=ablation_label(name) + chance))
    return found


def _training_tile(train: TrainingResult | None) -> list[Tile]:
    if train is None:
        return []
    detail = f"{train.steps:,} steps, {count_of(train.processes, 'process', 'processes')}, {train.engine}"
    tiles = [Tile(label="Training", value=duration(train.seconds), detail=detail)]
    if (best := train.best) is not None:
        chosen = "the run's result" if best.step == train.checkpoint.step else "not the run's result"
        about = f"loss {best.held_out_loss:.4g}, {chosen}"
        tiles.append(Tile(label="Lowest held-out loss", value=f"step {best.step:,}", detail=about))
    return tiles


def stage_table(inputs: ReportInputs) -> tuple[StageRow, ...]:
    """Return a row for each stage of the training; none for a training without stages."""
    train, lineage = inputs.train, inputs.lineage
    recipe = lineage.recipe if lineage is not None and train is not None and train.stages else None
    return tuple(
        _stage_row(found, recipe.of_stage(index) if recipe is not None else None)
        for index, found in enumerate(train.stages if train is not None else ())
    )


def _stage_row(found: TrainedStage, recipe: Recipe | None) -> StageRow:
    best = found.best
    return StageRow(
        name=found.name,
        steps=f"{found.first_step:,} to {found.last_step - 1:,}",
        trained=recipe.model.updated_text.replace("_", " ") if recipe is not None else "",
        learning_rate=f"{recipe.optimizer.learning_rate:g}" if recipe is not None else "",
        held_out=f"{best.held_out_loss:.4g} at step {best.step:,}" if best is not None else "",
        checkpoint=found.checkpoint.uri,
        digest=found.checkpoint.digest[:12],
    )


def accuracy_table(scores: Scores) -> tuple[AccuracyRow, ...]:
    """Return rows by family and ablation; a family with several kinds is followed by its kinds."""
    accuracy, kinds = scores.accuracy, scores.kinds
    rows: list[AccuracyRow] = []
    for family in ordered_families(family for by_family in accuracy.values() for family in by_family):
        cells = {name: by_family[family] for name, by_family in accuracy.items() if family in by_family}
        rows += _rows(family, cells, {name: scores.loss.get(name, {}).get(family) for name in cells})
        own = ordered_kinds(kind for row in kinds.values() for kind in row if family_of(kind) == family)
        for kind in own if len(own) > 1 else ():
            given = {name: row[kind] for name, row in kinds.items() if kind in row}
            losses = {name: cell.loss for name, cell in given.items()}
            rows += _rows(kind_label(kind), given, losses, is_kind=True)
    return tuple(rows)


def modality_table(scores: Scores) -> tuple[AccuracyRow, ...]:
    """Return a row for each recorded combination of modalities, without ablation."""
    whole = Ablation.AUDIO_VISUAL
    return tuple(
        row
        for name, cell in sorted(scores.modalities.items())
        for row in _rows(name.replace("_", ", "), {whole: cell}, {whole: cell.loss})
    )


def task_tables(evaluation: EvaluationResult) -> tuple[TaskTable, ...]:
    """Return a table for each task of `tasks`, by name."""
    return tuple(
        TaskTable(
            name=name,
            about=f"Version {found.task_version}, data commit {found.dataset.commit[:12]}",
            rows=accuracy_table(found),
        )
        for name, found in sorted(evaluation.tasks.items())
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


def tally(predictions: Sequence[Prediction]) -> Tally:
    """Count the questions, wrong answers and clips with all modalities."""
    full = [row for row in predictions if row.ablation == Ablation.AUDIO_VISUAL]
    return Tally(
        questions=len(full),
        wrong=sum(not row.correct for row in full),
        clips=len({row.clip for row in full if row.clip}),
    )


def lineage_rows(inputs: ReportInputs) -> tuple[LineageRow, ...]:
    """Return everything that determines the run, except the recipe and the packages."""
    summary, lineage = inputs.summary, inputs.lineage
    datasets = lineage.datasets if lineage is not None else ()
    first = datasets[0].name if datasets else ""
    rows = [
        LineageRow(name="Dataset commit", value=summary.dataset_commit, note=_mix_note(first, inputs.train)),
        *(
            LineageRow(name="Dataset commit", value=one.commit, note=_mix_note(one.name, inputs.train))
            for one in datasets[1:]
        ),
        *_code_rows(lineage),
        LineageRow(name="Checkpoint", value=summary.checkpoint.uri),
        LineageRow(name="Checkpoint digest", value=summary.checkpoint.digest),
    ]
    version = summary.model_version
    if version.name:
        aliases = ", ".join(version.aliases) or "no alias"
        rows.append(LineageRow(name="Model version", value=f"{version.name} {version.version}", note=aliases))
    if lineage is not None:
        note = f"sha256 {lineage.experiment.sha256[:12]}…" if lineage.experiment.sha256 else ""
        rows.append(LineageRow(name="Experiment record", value=lineage.experiment.id, note=note))
    return (*rows, *_job_rows(inputs.train, lineage))


def _mix_note(name: str, train: TrainingResult | None) -> str:
    """Return the name of a dataset, with its share of the training if there were several."""
    found = next((one for one in train.mix if one.name == name), None) if train is not None else None
    if found is None:
        return name
    observed = "" if found.observed_share is None else f", observed {found.observed_share:.1%}"
    return f"{name}: {count_of(found.samples, 'sample')}, expected share {found.wanted_share:.1%}{observed}"


def _code_rows(lineage: Lineage | None) -> Iterator[LineageRow]:
    if lineage is None:
        yield LineageRow(name="Git commit", value="not recorded: the run is not registered", code=False)
        return
    git = lineage.git
    if git.commit:
        state = "with uncommitted changes, stored as a patch" if git.dirty else "clean"
        yield LineageRow(name="Git commit", value=git.commit, note=state)
    else:
        yield LineageRow(name="Git commit", value="not in a git checkout", code=False)
    if git.patch_sha256:
        yield LineageRow(name="Patch", value=git.patch_sha256, note="sha256")
    yield LineageRow(name="Code digest", value=lineage.code_digest)
    yield LineageRow(name="Seed", value=str(lineage.seed))


def _job_rows(train: TrainingResult | None, lineage: Lineage | None) -> Iterator[LineageRow]:
    if train is not None:
        yield LineageRow(name="Run", value=train.run)
        if train.mlflow_run_id:
            yield LineageRow(name="MLflow run", value=train.mlflow_run_id)
    if lineage is not None:
        environment = lineage.environment
        if environment.image:
            yield LineageRow(name="Image", value=environment.image)
        yield LineageRow(name="Python", value=environment.python, code=False)
        yield LineageRow(name="Platform", value=environment.platform, code=False)
