"""A run's row of the index page, from the objects that its steps wrote."""

import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from llava_av.report.labels import ordered_ablations, ordered_families
from llava_av.report.run_index.index_page import Headline, IndexedRun
from llava_av.runs import (
    Artifact,
    EvaluationResult,
    GateDecision,
    Opened,
    Registration,
    Run,
    RunCode,
    RunOutcome,
    RunRequest,
    TrainingResult,
)
from llava_av.vocabulary import Ablation, QuestionFamily

__all__ = ["AliasesByVersion", "StoredRun", "indexed_run", "read_stored_run"]

AliasesByVersion = Mapping[tuple[str, str], tuple[str, ...]]
"""Aliases by model name and version."""
_Object = TypeVar("_Object", bound=Artifact)


@dataclass(frozen=True, kw_only=True)
class StoredRun:
    """Existing objects of a run."""

    run: Run
    request: RunRequest
    opened: Opened | None
    code: RunCode | None
    train: TrainingResult | None
    evaluation: EvaluationResult | None
    registered: Registration | None
    gate: GateDecision | None
    outcome: RunOutcome | None

    @property
    def at(self) -> datetime.datetime | None:
        """Time at which the run was opened; for a run of an earlier version, the day of its outcome."""
        if self.opened is not None:
            return self.opened.at
        if self.outcome is None:
            return None
        return datetime.datetime.combine(self.outcome.date, datetime.time(), datetime.UTC)


def read_stored_run(run: Run, names: Mapping[str, int]) -> StoredRun | None:
    """Read the objects of a run that a listing contains; return None if the run was not opened here."""

    def find(kind: type[_Object]) -> _Object | None:
        return run.find(kind) if kind.NAME in names else None

    request = find(RunRequest)
    if request is None:
        return None
    return StoredRun(
        run=run,
        request=request,
        opened=find(Opened),
        code=find(RunCode),
        train=find(TrainingResult),
        evaluation=find(EvaluationResult),
        registered=find(Registration),
        gate=find(GateDecision),
        outcome=find(RunOutcome),
    )


def indexed_run(stored: StoredRun, aliases: AliasesByVersion, report: str) -> IndexedRun:
    """Return the row of a run.

    Args:
        stored: The run.
        aliases: Aliases of all model versions.
        report: Path of its report, relative to the page; empty if there is none.
    """
    request, code, registered = stored.request, stored.code, stored.registered
    verdicts = [check.met for check in stored.outcome.checks] if stored.outcome else []
    return IndexedRun(
        run=stored.run.id,
        experiment=request.experiment.id,
        recipe=request.recipe_name,
        dataset=", ".join(f"{one.name}@{one.commit[:10]}" for one in request.datasets),
        seed=request.seed,
        at=stored.at,
        by=stored.opened.by if stored.opened else "",
        commit=(code.git.commit or code.digest) if code else "",
        dirty=code.git.dirty if code else False,
        **dict(_headline(stored.evaluation) if stored.evaluation else Headline()),
        met=verdicts.count(True),
        missed=verdicts.count(False),
        unmeasured=verdicts.count(None),
        gate=stored.gate.verdict if stored.gate else "",
        version=f"{registered.name} {registered.version}" if registered else "",
        aliases=aliases.get((registered.name, registered.version), ()) if registered else (),
        process_hours=_process_hours(stored),
        state="evaluated" if stored.evaluation else "trained" if stored.train else "opened",
        report=report,
    )


def _process_hours(stored: StoredRun) -> float | None:
    if stored.train is None:
        return None
    cost = stored.evaluation.cost if stored.evaluation else None
    seconds = stored.train.seconds * stored.train.processes + (cost.seconds if cost else 0.0)
    return seconds / 3600


def _headline(evaluation: EvaluationResult) -> Headline:
    """Return the accuracy of the most demanding family, and the best with a modality removed."""
    rows = {name: cells for name, cells in evaluation.accuracy.items() if cells}
    whole = rows.get(Ablation.AUDIO_VISUAL)
    if whole is None:
        return Headline()
    families = ordered_families(whole)
    family = QuestionFamily.JOINT if QuestionFamily.JOINT in families else families[0]
    others = (Ablation.AUDIO_VISUAL, Ablation.SHUFFLED_AUDIO)
    removed = [name for name in ordered_ablations(rows) if name not in others and family in rows[name]]
    best = max(removed, key=lambda name: rows[name][family].value, default=None)
    return Headline(
        family=family,
        accuracy=whole[family],
        without=rows[best][family] if best is not None else None,
        without_ablation=best or "",
    )
