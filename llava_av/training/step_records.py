"""Records of steps: each is read and written while the next step runs, so that no step waits for its metrics.

A checkpoint, a measurement of the held-out loss, and the end of training need the records of all steps, and
wait for the last one.
"""

from collections.abc import Mapping

from llava_av.runs.names import SKIPPED
from llava_av.training.checkpointer import Checkpointer
from llava_av.training.job_context import JobContext
from llava_av.training.mix import MixReport
from llava_av.training.recording import TrackedJournal
from llava_av.training.selection import HeldOutLosses
from llava_av.training.trainer import TakenStep, Trainer

__all__ = ["StepRecords"]


class StepRecords:
    """Records of the steps of a stage; all processes call every method together.

    Args:
        job: The job in the stage.
        trainer: Takes the steps, and reads their metrics.
        checkpointer: Learns that steps were finite.
        tracked: Journal of the records.
        losses: Held-out losses, which choose the best checkpoint.
        mix: Shares of the datasets.
    """

    def __init__(
        self,
        job: JobContext,
        trainer: Trainer,
        checkpointer: Checkpointer,
        tracked: TrackedJournal,
        losses: HeldOutLosses,
        mix: MixReport,
    ) -> None:
        self._job, self._trainer, self._checkpointer = job, trainer, checkpointer
        self._tracked, self._losses, self._mix = tracked, losses, mix
        self._taken: TakenStep | None = None
        self._step: int | None = None
        self._row: dict[str, float] = {}

    def add(self, taken: TakenStep, row: Mapping[str, float]) -> None:
        """Keep a step that may still run, with further metrics of it; record the step before it.

        Raises:
            NonFiniteError: The step before it was the last of as many as the recipe allows in a row.
            UserError: A checkpoint could not be written, or too many samples failed to decode.
        """
        self.finish()
        self._taken, self._step, self._row = taken, taken.batch.step, dict(row)

    def measure(self) -> None:
        """Wait for the metrics of the last step; raises as `add`."""
        if self._taken is None:
            return
        self._row = self._trainer.measure(self._taken) | self._row
        self._taken = None
        saved = self._checkpointer.stepped(self._losses.best_step())
        if saved is not None:
            self._tracked.exported.saved(saved.step)
        skipped = self._trainer.non_finite.take_report()
        if skipped is not None and self._job.is_rank_zero:
            self._job.run.write(skipped, at=f"{SKIPPED}{self._step}/")

    def extend(self, metrics: Mapping[str, float]) -> None:
        """Add metrics to the last step, which `measure` has read."""
        self._row |= metrics

    def finish(self) -> None:
        """Record the last step, if it is not recorded yet; raises as `add`."""
        self.measure()
        if self._step is not None and self._job.is_rank_zero:
            row = self._job.stage.row | self._row | self._mix.of_step(self._step)
            self._tracked.record(self._step, row)
        self._step = None
