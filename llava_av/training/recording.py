"""Records of a running training job: starts, journal of metrics, loss spikes, MLflow and Prometheus."""

import contextlib
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence

from llava_av.errors import printable
from llava_av.plurals import listed
from llava_av.recipe import StageSpan
from llava_av.runs import LossSpike, LossSpikes, Run, Starts
from llava_av.runs.names import METRICS
from llava_av.storage import ObjectDamaged, ObjectMissing
from llava_av.tracking.follower import JournalFollower
from llava_av.tracking.journal import Journal
from llava_av.tracking.prometheus import TrainingMetrics, serve_metrics
from llava_av.tracking.trackers import chosen_trackers
from llava_av.training.bad_samples import BadSamples
from llava_av.training.console import ProgressReport
from llava_av.training.job_context import JobContext
from llava_av.training.loss_spikes import SpikeDetector

__all__ = ["TrackedJournal", "count_start", "track"]

_LOG = logging.getLogger(__name__)
_MAX_NAMED = 8


class TrackedJournal:
    """Journal of a run, with the loss spikes in it; `mlflow_run_id` is set once MLflow has all of it.

    Call `enter_stage` before the first step.

    Args:
        run: Run of the journal.
        journal: Journal with the rows of the earlier steps.
        spikes: Loss spikes of the earlier steps.
        bad_samples: Samples that training leaves out.
        progress: Progress report that gets the metrics of each step.
        exported: Metrics for Prometheus.
    """

    def __init__(
        self,
        run: Run,
        journal: Journal,
        spikes: Sequence[LossSpike],
        bad_samples: BadSamples,
        progress: ProgressReport,
        exported: TrainingMetrics,
    ) -> None:
        self.exported = exported
        self._run = run
        self._progress = progress
        self.journal = journal
        self._samples_of: Callable[[int], Sequence[str]] = lambda _: ()
        self._spikes = list(spikes)
        self._bad_samples = bad_samples
        self._warmup_end = 0
        self._detector = SpikeDetector(())
        self.mlflow_run_id: str | None = None

    def rows(self, stage: StageSpan) -> list[dict[str, float]]:
        """Return the rows of the steps of a stage."""
        return [row for row in self.journal.rows() if stage.first <= row["step"] < stage.end]

    def enter_stage(
        self, stage: StageSpan, samples_of: Callable[[int], Sequence[str]], warmup_end: int
    ) -> None:
        """Expect the steps of a stage, whose losses are compared with each other alone.

        Args:
            stage: The stage.
            samples_of: Returns the IDs of the samples of a step.
            warmup_end: First step that draws samples of all kinds; its loss may be far above those before.
        """
        self._samples_of = samples_of
        self._warmup_end = warmup_end
        rows = self.rows(stage)
        comparable = [row for row in rows if row["step"] >= warmup_end] or rows
        self._detector = SpikeDetector(row["loss"] for row in comparable if "loss" in row)
        self._progress.enter_stage(stage.name)

    def record(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append the metrics of a step, report progress, and warn if the loss is a spike."""
        self.journal.append({"step": step, **metrics})
        self._progress.stepped(step, metrics)
        self.exported.stepped(step, metrics)
        loss = metrics.get("loss", math.nan)
        if step == self._warmup_end:
            self._detector = SpikeDetector(())
        median = self._detector.add(loss)
        if median is None:
            return
        samples = tuple(self._samples_of(step))
        self._spikes.append(LossSpike(step=step, loss=loss, median=median, samples=samples))
        _LOG.warning(
            "loss spike at step %d: %.4g, running median %.4g (samples %s); %s lists all samples",
            step,
            loss,
            median,
            listed(tuple(map(printable, samples)), _MAX_NAMED),
            LossSpikes.NAME,
        )

    def snapshot(self) -> Callable[[], None]:
        """Return a function that writes journal, spikes and bad samples, as they are now, to the run."""
        content = self.journal.path.read_bytes() if self.journal.path.exists() else b""
        spikes = tuple(self._spikes[-LossSpikes.MOST :])
        bad_samples = self._bad_samples.report()

        def write() -> None:
            self._run.put_metrics(content)
            if spikes:
                self._run.write(LossSpikes(spikes=spikes))
            if bad_samples is not None:
                self._run.write(bad_samples)

        return write


@contextlib.contextmanager
def count_start(job: JobContext) -> Iterator[TrainingMetrics]:
    """Count this start of the run, and serve metrics to Prometheus from rank zero until the block ends."""
    if not job.is_rank_zero:
        yield TrainingMetrics(job.request)
        return
    found = job.run.find(Starts)
    before = found.starts if found is not None else 0
    job.run.write(Starts(starts=before + 1))
    metrics = TrainingMetrics(job.request, restarts=before)
    with serve_metrics(metrics):
        yield metrics


@contextlib.contextmanager
def track(
    job: JobContext,
    first_step: int,
    exported: TrainingMetrics,
    bad_samples: BadSamples,
) -> Iterator[TrackedJournal]:
    """Keep the run's journal; rank zero shows it in MLflow and other trackers until the block ends or raises.

    All processes call this, and get the samples that failed to decode in earlier jobs of the run.

    Args:
        job: The job.
        first_step: Step that training starts or resumes from; the journal keeps the steps before it.
        exported: Metrics for Prometheus.
        bad_samples: Samples that training leaves out.
    """
    bad_samples.restore(job.run, first_step)
    journal = _journal(job, first_step)
    found = job.run.find(LossSpikes) if job.is_rank_zero and first_step else None
    spikes = [one for one in found.spikes if one.step < first_step] if found else []
    progress = ProgressReport(first_step, job.request.recipe.training.steps)
    tracked = TrackedJournal(job.run, journal, spikes, bad_samples, progress, exported)
    followers = _followers(job, journal) if job.is_rank_zero else []
    failed = True
    try:
        yield tracked
        failed = False
    finally:
        ids = [follower.finish(failed=failed) for follower in followers]
        tracked.mlflow_run_id = ids[0] if ids else None


def _followers(job: JobContext, journal: Journal) -> list[JournalFollower]:
    """Start to follow the journal, first for MLflow."""
    # Only rank zero spends the second of CPU time that this import takes.
    from llava_av.tracking.mlflow_run import MlflowTracker

    trackers = [MlflowTracker(job.request), *chosen_trackers(job.request, job.work)]
    return [JournalFollower(tracker, journal) for tracker in trackers]


def _journal(job: JobContext, first_step: int) -> Journal:
    """Return the run's journal up to the step that training resumes from."""
    job.folder.mkdir(parents=True, exist_ok=True)
    journal = Journal(job.folder / METRICS)
    if job.is_rank_zero:
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
