"""The training loop: take a step, record its metrics, save a checkpoint, for all remaining steps."""

from collections.abc import Iterable

from llava_av.checkpoints import CheckpointRef
from llava_av.tracking.exporter import TrainingMetrics
from llava_av.training.checkpointer import Checkpointer
from llava_av.training.job_context import JobContext
from llava_av.training.loader import LoadedBatch
from llava_av.training.mix import MixReport
from llava_av.training.phases import Phases
from llava_av.training.recording import TrackedJournal
from llava_av.training.selection import HeldOutLosses, is_checkpoint_step
from llava_av.training.trainer import Trainer
from llava_av.training.validation import Validator

__all__ = ["run_steps"]


def run_steps(
    job: JobContext,
    trainer: Trainer,
    loaded: Iterable[LoadedBatch],
    checkpointer: Checkpointer,
    tracked: TrackedJournal,
    exported: TrainingMetrics,
    phases: Phases,
    validator: Validator | None,
    held_out: HeldOutLosses,
    mix: MixReport,
) -> CheckpointRef | None:
    """Take all remaining steps; return the last checkpoint written, or None if no step remained.

    Training ends before its last step if the held-out loss says so.

    Raises:
        NonFiniteError: The loss, the gradient or the state to save is not finite.
    """
    reference, pruned = None, True
    for batch in loaded if not held_out.is_finished() else ():
        phases.take_step(batch.step)
        metrics = trainer.step(batch)
        if not pruned:
            checkpointer.prune(held_out.best_step())
            pruned = True
        if validator is not None and held_out.is_due(batch.step + 1):
            phases.measure_held_out_loss(batch.step + 1)
            metrics |= validator.measure()
            held_out.add(batch.step + 1, metrics)
        if job.first:
            tracked.journal.append({"step": batch.step} | metrics | mix.of_step(batch.step))
            exported.stepped(batch.step, metrics)
        if is_checkpoint_step(batch.step + 1, job.recipe.training) or held_out.is_finished():
            phases.save_checkpoint(batch.step + 1)
            if job.first:
                job.run.put_metrics(tracked.journal.path.read_bytes())
            trainer.require_finite_state(batch)
            reference, pruned = checkpointer.save(batch.step + 1), False
            exported.saved(reference.step)
        if held_out.is_finished():
            break
        phases.wait_for_batch(batch.step + 1)
    if not pruned:
        checkpointer.prune(held_out.best_step())
    return reference
