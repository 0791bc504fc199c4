"""History of a model version as JSON and as a tree, with its inputs and its results."""

from collections.abc import Iterator

from pydantic import JsonValue

from llava_av.frozen import FrozenModel
from llava_av.plurals import count_of
from llava_av.report.tree_diagram import Box
from llava_av.runs import (
    EvaluationResult,
    GateDecision,
    Lineage,
    Registration,
    Reproduction,
    TrainingResult,
)
from llava_av.vocabulary import Ablation, GateVerdict

__all__ = ["NOT_PINNED", "ObjectStates", "RunHistory", "VersionHistory", "history_boxes"]

NOT_PINNED = "not pinned"
"""Prefix of the checkpoint state of a version that an earlier release registered."""
_VERDICT_STATES = {GateVerdict.PASSED: "good", GateVerdict.FAILED: "bad", GateVerdict.NOT_RUN: "open"}


class ObjectStates(FrozenModel):
    """Results of verifying the objects of a run."""

    verified: int
    """Number of objects that match their checksums."""
    unverified: tuple[str, ...]
    """Names of objects without a checksum."""
    damaged: tuple[str, ...]
    """Errors of objects that do not match their checksums."""


class RunHistory(FrozenModel):
    """Objects of the run that the version comes from."""

    train: TrainingResult | None
    patch_state: str
    """`none`, `verified` or the error."""
    evaluation: EvaluationResult | None
    gate: GateDecision | None
    outcome: tuple[str, ...]
    """Expectations of the record with the observed values, one line each."""
    objects: ObjectStates
    reproductions: tuple[Reproduction, ...]

    def to_json(self) -> dict[str, JsonValue]:
        """Return the history without the environment of training, which is in the lineage."""
        train = self.train.model_dump(mode="json", exclude={"environment"}) if self.train else None
        cells = self.evaluation.cells() if self.evaluation is not None else ()
        numbers: dict[str, JsonValue] = {
            f"accuracy.{ablation}.{family}": cell.model_dump(include={"value", "low", "high", "n"})
            for ablation, family, cell in cells
        }
        return {
            "train": train,
            "patch_state": self.patch_state,
            "evaluation": numbers,
            "gate": self.gate.to_json() if self.gate is not None else None,
            "outcome": list(self.outcome),
            "objects": self.objects.model_dump(mode="json"),
            "reproductions": [made.to_json() for made in self.reproductions],
        }


class VersionHistory(FrozenModel):
    """A model version with its inputs and its results."""

    registered: Registration
    moves: tuple[str, ...]
    """Moves of aliases to and from the version, one line each."""
    checkpoint_state: str
    dataset_parents: tuple[str, ...]
    """Parent commits of the dataset, newest first, or the error that ended the search."""
    experiment_parents: tuple[str, ...]
    run: RunHistory | None
    """None for a version whose lineage names no run."""

    @property
    def verified(self) -> bool:
        """Return whether the checkpoint is verified and no object of the run is damaged."""
        damaged = self.run is not None and bool(self.run.objects.damaged)
        return self.checkpoint_state.endswith("verified") and not damaged

    def to_json(self) -> dict[str, JsonValue]:
        """Return the whole history as `llava-av lineage --json` prints it."""
        version = self.registered
        return {
            "version": {"name": version.name, "version": version.version, "aliases": list(version.aliases)},
            "moves": list(self.moves),
            "lineage": version.lineage_json,
            "checkpoint_state": self.checkpoint_state,
            "dataset_parents": list(self.dataset_parents),
            "experiment_parents": list(self.experiment_parents),
            **(self.run.to_json() if self.run is not None else {}),
        }


def history_boxes(history: VersionHistory) -> tuple[Box, ...]:
    """Return the history as a tree, first the inputs and then the results of the version."""
    lineage = history.registered.lineage
    return (
        *_version_boxes(history),
        _training_box(history.run.train if history.run else None, lineage),
        *_stage_boxes(lineage),
        *((_objects_box(history.run.objects),) if history.run else ()),
        *_dataset_boxes(history, lineage),
        *_code_boxes(history, lineage),
        _recipe_box(lineage),
        _environment_box(lineage),
        *_experiment_boxes(history, lineage),
        *_results(history),
    )


def _version_boxes(history: VersionHistory) -> Iterator[Box]:
    version, state = history.registered, history.checkpoint_state
    aliases = ", ".join(version.aliases) or "no alias"
    yield Box(title=f"model {version.name} version {version.version}", lines=(aliases,), depth=0)
    yield Box(
        title="checkpoint",
        lines=(version.checkpoint_uri, f"digest {version.checkpoint_digest}", state),
        depth=1,
        state="good" if state.endswith("verified") else "open" if state.startswith(NOT_PINNED) else "bad",
    )


def _training_box(train: TrainingResult | None, lineage: Lineage) -> Box:
    job = lineage.job
    lines = [f"job {job.name}" if job and job.name else "on one machine, no PyTorchJob"]
    if job and job.pipeline_run:
        lines.append(f"pipeline run {job.pipeline_run}")
    if train is not None:
        lines.append(
            f"{train.engine}, {count_of(train.processes, 'process', 'processes')}, {train.seconds:.0f} s"
        )
        lines.append(f"MLflow run {train.mlflow_run_id or 'logged at registration'}")
    return Box(title=f"run {lineage.run or 'not recorded'}", lines=tuple(lines), depth=2)


def _stage_boxes(lineage: Lineage) -> Iterator[Box]:
    for index, found in enumerate(lineage.stages):
        own = lineage.recipe.of_stage(index)
        lines = [
            f"{count_of(found.steps, 'step')} from step {found.first_step}",
            f"trained {own.model.updated_text}",
            found.checkpoint.uri,
            f"digest {found.checkpoint.digest}",
        ]
        if found.best is not None:
            lines.append(f"lowest held-out loss {found.best.held_out_loss:.4g} at step {found.best.step}")
        yield Box(title=f"stage {found.name}", lines=tuple(lines), depth=3)


def _objects_box(objects: ObjectStates) -> Box:
    names = ", ".join(objects.unverified)
    lines = [f"without a checksum, not verified: {names}"] if names else []
    lines += [*objects.damaged, f"{objects.verified} verified"]
    state = "bad" if objects.damaged else "open" if names else "good"
    return Box(title="objects of the run", lines=tuple(lines), depth=3, state=state)


def _dataset_boxes(history: VersionHistory, lineage: Lineage) -> Iterator[Box]:
    dataset = lineage.dataset
    yield Box(title=f"dataset {dataset.name}", lines=(f"commit {dataset.commit}",), depth=3)
    for depth, parent in enumerate(history.dataset_parents, start=4):
        yield Box(title="its parent", lines=(f"commit {parent}",), depth=depth)
    for further in lineage.further_datasets:
        yield Box(title=f"dataset {further.name}", lines=(f"commit {further.commit}",), depth=3)


def _code_boxes(history: VersionHistory, lineage: Lineage) -> Iterator[Box]:
    git = lineage.git
    lines = (f"code digest {lineage.code_digest[:12]}…", "with a patch" if git.dirty else "clean")
    commit = git.commit or f"no commit: {git.note}"
    yield Box(title=f"code {commit[:40]}", lines=lines, depth=3)
    if git.patch_sha256:
        state = history.run.patch_state if history.run is not None else ""
        lines = (f"sha256 {git.patch_sha256}", state)
        yield Box(title="patch", lines=lines, depth=4, state="good" if state == "verified" else "bad")


def _recipe_box(lineage: Lineage) -> Box:
    recipe = lineage.recipe
    lines = (
        f"digest {recipe.digest()[:12]}…",
        f"seed {lineage.seed}",
        count_of(recipe.training.steps, "step"),
    )
    return Box(title=f"recipe {recipe.name}", lines=lines, depth=3)


def _environment_box(lineage: Lineage) -> Box:
    environment = lineage.environment
    lines = (
        f"image {environment.image or 'none'}",
        environment.platform,
        count_of(len(environment.packages), "package"),
    )
    return Box(title=f"Python {environment.python}", lines=lines, depth=3)


def _experiment_boxes(history: VersionHistory, lineage: Lineage) -> Iterator[Box]:
    experiment = lineage.experiment
    lines = [f"record sha256 {(experiment.sha256 or 'not recorded')[:12]}…"]
    lines += history.run.outcome if history.run is not None else ()
    lines += [f"incomplete when the run was opened: {text}" for text in experiment.incomplete]
    state = "bad" if experiment.incomplete else "plain"
    yield Box(title=f"experiment {experiment.id}", lines=tuple(lines), depth=3, state=state)
    for depth, parent in enumerate(history.experiment_parents, start=4):
        yield Box(title=f"follows {parent}", lines=(), depth=depth)


def _results(history: VersionHistory) -> Iterator[Box]:
    evaluation = history.run.evaluation if history.run is not None else None
    cells = evaluation.accuracy.get(Ablation.AUDIO_VISUAL, {}) if evaluation is not None else {}
    lines = tuple(
        f"accuracy.{Ablation.AUDIO_VISUAL}.{family} {cell.value:.3f} [{cell.low:.3f}, {cell.high:.3f}], "
        f"n = {cell.n}"
        for family, cell in cells.items()
    )
    yield Box(title="evaluation", lines=lines or ("none yet",), depth=1)
    gate = history.run.gate if history.run is not None else None
    if gate is not None:
        state = _VERDICT_STATES[gate.verdict]
        yield Box(title="gate", lines=(*gate.reasons, gate.verdict), depth=2, state=state)
    if history.moves:
        yield Box(title="aliases", lines=history.moves, depth=2)
    for made in history.run.reproductions if history.run is not None else ():
        state = "good" if made.identical else "open" if made.within_intervals else "bad"
        yield Box(title="reproduction", lines=(made.date.isoformat(), made.verdict), depth=2, state=state)
