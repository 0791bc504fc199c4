"""The training loop: take a step, record its metrics, save a checkpoint, for all remaining steps."""

import time
from collections.abc import Iterable
from functools import partial
from typing import NoReturn

from torch import distributed

from llava_av.checkpoints import CheckpointRef
from llava_av.processes.termination import TerminatedError, Termination
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
    termination: Termination,
) -> CheckpointRef | None:
    """Take all remaining steps; return the last checkpoint written, or None if no step remained.

    Raises:
        NonFiniteError: The loss, the gradient or the state to save is not finite.
        TerminatedError: A process got SIGTERM; a checkpoint holds all steps.
    """
    stall_s = 0.0
    for batch in loaded:
        phases.take_step(batch.step)
        metrics = trainer.step(batch) | {"checkpoint_stall_s": stall_s}
        stall_s = 0.0
        saved = checkpointer.stepped()
        if saved is not None:
            exported.saved(saved.step)
        skipped = trainer.non_finite.take_report()
        if skipped is not None and job.first:
            job.run.write(skipped, at=f"{SKIPPED}{batch.step}/")
        if job.first:
            tracked.journal.append({"step": batch.step} | metrics)
            exported.stepped(batch.step, metrics)
        done, last = batch.step + 1, job.recipe.training.steps
        if termination.agreed or _is_checkpoint(done, job.recipe.training):
            phases.save_checkpoint(done)
            started = time.monotonic()
            trainer.require_finite_state(batch)
            journal = tracked.journal.path.read_bytes() if job.first else b""
            checkpointer.save(done, with_model=done == last, first=partial(job.run.put_metrics, journal))
            stall_s = time.monotonic() - started
        if termination.agreed and done < last:
            _end_terminated(checkpointer.finish(), last)
        phases.wait_for_batch(done)
    phases.save_checkpoint(job.recipe.training.steps)
    reference = checkpointer.finish()
    if reference is not None:
        exported.saved(reference.step)
    return reference


def _end_terminated(saved: CheckpointRef | None, steps: int) -> NoReturn:
    """End all processes after their checkpoint."""
    assert saved is not None, "the step in which all processes agree to end has a checkpoint"
    # No process may end before the others have written their parts.
    distributed.barrier()
    raise TerminatedError(
        f"training was ended by SIGTERM after step {saved.step} of {steps}; checkpoint {saved.uri} holds all "
        "steps: run the same command again to resume"
    )


def _is_checkpoint(done: int, training: TrainingRecipe) -> bool:
    return done % training.checkpoint_interval == 0 or done == training.steps
