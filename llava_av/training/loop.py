"""Training loop: take a step, record its metrics, save a checkpoint, for all remaining steps."""

import time
from collections.abc import Iterable
from typing import NoReturn

from torch import distributed

from llava_av.checkpoints import CheckpointRef
from llava_av.processes.termination import TerminatedError
from llava_av.training.checkpointer import Checkpointer
from llava_av.training.job_context import JobContext
from llava_av.training.loader import LoadedBatch
from llava_av.training.mix import MixReport
from llava_av.training.phases import Phases
from llava_av.training.recording import TrackedJournal
from llava_av.training.selection import HeldOut
from llava_av.training.step_records import StepRecords
from llava_av.training.trainer import Trainer

__all__ = ["end_terminated", "run_steps"]


def run_steps(
    job: JobContext,
    trainer: Trainer,
    loaded: Iterable[LoadedBatch],
    checkpointer: Checkpointer,
    tracked: TrackedJournal,
    phases: Phases,
    held_out: HeldOut,
    mix: MixReport,
) -> CheckpointRef | None:
    """Take all remaining steps; return the last checkpoint written, or None if no step remained.

    They are the steps of the job's stage, which ends before its last step if the held-out loss has not
    improved for long enough (`training.early_stopping_patience`).

    Raises:
        NonFiniteError: The loss, the gradient or the state to save is not finite.
        TerminatedError: A process got SIGTERM; a checkpoint holds all steps.
    """
    stall_s, training, losses = 0.0, job.recipe.training, held_out.losses
    records = StepRecords(job, trainer, checkpointer, tracked, losses, mix)
    end = job.stage.span.end
    for batch in loaded if not losses.is_finished() else ():
        phases.take_step(batch.step)
        records.add(trainer.step(batch), {"checkpoint_stall_s": stall_s})
        stall_s, done = 0.0, batch.step + 1
        if losses.is_due(done):
            records.measure()
            phases.measure_held_out_loss(done)
            records.extend(held_out.measure(done))
        ends = losses.is_finished() or done == end
        if ends or trainer.is_ending or losses.has_checkpoint(done):
            records.finish()
            phases.save_checkpoint(done)
            best = losses.best_step()
            # The best checkpoint so far may become the result, which needs a model.
            may_be_result = training.result_checkpoint == "best" and best == done
            stall_s = _save(
                trainer, batch, checkpointer, tracked, with_model=ends or may_be_result, best=best
            )
        trainer.profiler.stepped()
        if ends:
            if job.is_rank_zero and done < end:
                held_out.losses.report_end(done)
            break
        if trainer.is_ending:
            end_terminated(job, checkpointer.finish(losses.best_step()))
        phases.wait_for_batch(done)
    trainer.profiler.finish()
    phases.save_checkpoint(end)
    last = checkpointer.finish(losses.best_step())
    if last is not None:
        tracked.exported.saved(last.step)
    return last


def _save(
    trainer: Trainer,
    batch: LoadedBatch,
    checkpointer: Checkpointer,
    tracked: TrackedJournal,
    *,
    with_model: bool,
    best: int | None,
) -> float:
    """Save the checkpoint after the step of a batch; return the seconds for which training waited."""
    started = time.monotonic()
    with trainer.profiler.part("checkpoint"):
        trainer.require_finite_state(batch)
        journal = tracked.snapshot()
        checkpointer.save(batch.step + 1, with_model=with_model, best=best, before_manifest=journal)
    return time.monotonic() - started


def end_terminated(job: JobContext, saved: CheckpointRef | None) -> NoReturn:
    """End all processes after their checkpoint.

    Raises:
        TerminatedError: Always.
    """
    assert saved is not None, "the step in which all processes agree to end has a checkpoint"
    # No process may end before the others have written their parts.
    distributed.barrier()
    raise TerminatedError(
        f"training was ended by SIGTERM after step {saved.step} of {job.request.recipe.training.steps}; "
        f"checkpoint {saved.uri} holds all steps: run the same command again to resume"
    )
