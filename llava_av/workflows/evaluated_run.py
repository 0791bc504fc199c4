"""Evaluated run: all of its objects that the workflows after an evaluation need, read once."""

from dataclasses import dataclass
from pathlib import Path

from llava_av.experiments.records import ExperimentRecord, parse_record
from llava_av.runs import EvaluationResult, Run, RunRequest, TrainingResult, evaluation_place
from llava_av.runs.names import EVALUATIONS, split_evaluation_place

__all__ = ["EvaluatedRun", "read_evaluated_run"]


@dataclass(frozen=True, kw_only=True)
class EvaluatedRun:
    """A run with its request, its experiment record and its evaluations."""

    run: Run
    request: RunRequest
    record: ExperimentRecord
    record_text: str
    """Markdown of the experiment record."""
    train: TrainingResult
    evaluation: EvaluationResult
    """Evaluation on the held-out split; `tasks` has those of the same checkpoint on other tasks."""

    def place(self, task: str) -> str:
        """Return the place below the run of the evaluation on a task."""
        return evaluation_place(task, self.train.checkpoint.step)


def read_evaluated_run(run: Run) -> EvaluatedRun:
    """Read an evaluated run.

    Raises:
        RunMissing: The run is not trained, or not evaluated on its held-out split.
    """
    request, text, train = run.request(), run.record_text(), run.read(TrainingResult)
    return EvaluatedRun(
        run=run,
        request=request,
        record=parse_record(text, Path(f"{request.experiment.id}.md"), draft=True),
        record_text=text,
        train=train,
        evaluation=_read_evaluations(run, train),
    )


def _read_evaluations(run: Run, train: TrainingResult) -> EvaluationResult:
    own = run.read(EvaluationResult)
    step = train.checkpoint.step
    found = {task: run.find(EvaluationResult, evaluation_place(task, step)) for task in _tasks(run)}
    # If the run was trained again, the same place may have the result of an earlier checkpoint.
    same = {task: one for task, one in found.items() if one and one.checkpoint == own.checkpoint}
    return own.model_copy(update={"tasks": same})


def _tasks(run: Run) -> list[str]:
    places = map(split_evaluation_place, run.names(EVALUATIONS))
    return sorted({place[0] for place in places if place is not None})
