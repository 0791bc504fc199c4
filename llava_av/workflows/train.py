"""Training of a run, unless it has finished before; an interrupted training resumes."""

import logging

from llava_av.checkpoints import whole_checkpoints
from llava_av.runs import Run, TrainingResult
from llava_av.storage import ObjectStore
from llava_av.workflows.runtime.job_target import LOCAL_TARGET, JobTarget, run_job
from llava_av.workflows.runtime.retry import retry_transient
from llava_av.workflows.runtime.workspace import Workspace

__all__ = ["train_step"]

_LOG = logging.getLogger(__name__)


@retry_transient
def train_step(workspace: Workspace, run_id: str, *, target: JobTarget = LOCAL_TARGET) -> TrainingResult:
    """Train the run's recipe on its dataset.

    Raises:
        LaunchError: The job failed; the message has the job's own error.
        RunMissing: No run has this ID.
    """
    run = Run(store=ObjectStore.from_env(), id=run_id)
    recipe = run.request().recipe
    done = _finished(run)
    if done is not None:
        _LOG.info("run %s is already trained: %s", run.id, done.checkpoint.uri)
        return done
    with run.timed("train"):
        run_job(
            workspace,
            run,
            target,
            name="training",
            module="llava_av.training",
            processes=recipe.training.num_processes,
        )
    return run.read(TrainingResult)


def _finished(run: Run) -> TrainingResult | None:
    """Return the result of training if its checkpoint still exists and is complete, else None."""
    train = run.find(TrainingResult)
    if train is None:
        return None
    # The best checkpoint is older than the latest ones.
    found = {one.step: one.digest for one in whole_checkpoints(run.store, run.id)}
    return train if found.get(train.checkpoint.step) == train.checkpoint.digest else None
