"""What a training job records while it runs: starts, a journal of metrics, MLflow and Prometheus."""

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llava_av.runs import Starts
from llava_av.runs.names import METRICS
from llava_av.storage import ObjectDamaged, ObjectMissing
from llava_av.tracking.exporter import TrainingMetrics, serve_metrics
from llava_av.tracking.journal import Journal
from llava_av.training.job_context import JobContext

if TYPE_CHECKING:
    from llava_av.tracking.mlflow_run import MlflowFollower

__all__ = ["TrackedJournal", "count_start", "track"]

_LOG = logging.getLogger(__name__)


@dataclass
class TrackedJournal:
    """Journal of a run; `mlflow_run_id` is set once MLflow has all of it."""

    journal: Journal
    mlflow_run_id: str | None = None


@contextlib.contextmanager
def count_start(job: JobContext) -> Iterator[TrainingMetrics]:
    """Count this start of the run, and serve metrics to Prometheus from rank zero until the block ends."""
    if not job.first:
        yield TrainingMetrics(job.request)
        return
    found = job.run.find(Starts)
    before = found.starts if found is not None else 0
    job.run.write(Starts(starts=before + 1))
    metrics = TrainingMetrics(job.request, restarts=before)
    with serve_metrics(metrics):
        yield metrics


@contextlib.contextmanager
def track(job: JobContext, first_step: int) -> Iterator[TrackedJournal]:
    """Keep the run's journal; rank zero mirrors it to MLflow until the block ends or raises.

    Args:
        job: The job.
        first_step: Step that training starts or resumes from; the journal keeps the steps before it.
    """
    tracked = TrackedJournal(journal=_journal(job, first_step))
    follower = _follower(job, tracked.journal) if job.first else None
    failed = True
    try:
        yield tracked
        failed = False
    finally:
        if follower is not None:
            tracked.mlflow_run_id = follower.finish(failed=failed)


def _follower(job: JobContext, journal: Journal) -> "MlflowFollower":
    # Only rank zero spends the second of CPU time that this import takes.
    from llava_av.tracking.mlflow_run import MlflowFollower

    return MlflowFollower(job.request, journal)


def _journal(job: JobContext, first_step: int) -> Journal:
    """Return the run's journal up to the step that training resumes from."""
    job.folder.mkdir(parents=True, exist_ok=True)
    journal = Journal(job.folder / METRICS)
    if job.first:
        journal.path.unlink(missing_ok=True)
        if first_step:
            # Training can resume from the checkpoint even if the earlier metrics are lost.
            try:
                journal.path.write_bytes(job.run.metrics_bytes())
            except ObjectMissing:
                pass
            except ObjectDamaged as error:
                _LOG.warning("the metrics before step %d are lost: %s", first_step, error)
        journal.keep_until(first_step)
    return journal
