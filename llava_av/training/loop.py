"""The training loop: take a step, record its metrics, save a checkpoint, for all remaining steps."""

from collections.abc import Iterable

from llava_av.checkpoints import CheckpointRef
from llava_av.recipe import TrainingRecipe
from llava_av.runs.names import SKIPPED
from llava_av.tracking.exporter import TrainingMetrics
from llava_av.training.checkpointer import Checkpointer
from llava_av.training.job_context import JobContext
from llava_av.training.loader import LoadedBatch
from llava_av.training.phases import Phases
from llava_av.training.recording import TrackedJournal
from llava_av.training.trainer import Trainer

__all__ = ["run_steps"]


def run_steps(
    job: JobContext,
    trainer: Trainer,
    loaded: Iterable[LoadedBatch],
    checkpointer: Checkpointer,
    tracked: TrackedJournal,
    exported: TrainingMetrics,
    phases: Phases,
) -> CheckpointRef | None:
    """Take all remaining steps; return the last checkpoint written, or None if no step remained.

    Raises:
        NonFiniteError: The loss, the gradient or the state to save is not finite.
    """
    reference, pruned = None, True
    for batch in loaded:
        phases.take_step(batch.step)
        metrics = trainer.step(batch)
        if not pruned:
            checkpointer.prune()
            pruned = True
        skipped = trainer.non_finite.take_report()
        if skipped is not None and job.first:
            job.run.write(skipped, at=f"{SKIPPED}{batch.step}/")
        if job.first:
            tracked.journal.append({"step": batch.step} | metrics)
            exported.stepped(batch.step, metrics)
        if _is_checkpoint(batch.step + 1, job.recipe.training):
            phases.save_checkpoint(batch.step + 1)
            if job.first:
                job.run.put_metrics(tracked.journal.path.read_bytes())
            trainer.require_finite_state(batch)
            reference, pruned = checkpointer.save(batch.step + 1), False
            exported.saved(reference.step)
        phases.wait_for_batch(batch.step + 1)
    if not pruned:
        checkpointer.prune()
    return reference


def _is_checkpoint(done: int, training: TrainingRecipe) -> bool:
    return done % training.checkpoint_interval == 0 or done == training.steps
