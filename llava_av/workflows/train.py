"""Train a run, once: a finished one is found, a broken off one is resumed."""

import logging
from typing import Any

from llava_av.checkpoints import latest_checkpoint
from llava_av.storage import ObjectStore
from llava_av.workflows.runs import TRAIN_COMMAND, Run
from llava_av.workflows.runtime.job_target import LOCAL_TARGET, JobTarget, run_job
from llava_av.workflows.runtime.retry import retry_transient
from llava_av.workflows.runtime.workspace import Workspace

__all__ = ["train_step"]

_LOG = logging.getLogger(__name__)


@retry_transient
def train_step(workspace: Workspace, run_key: str, *, target: JobTarget = LOCAL_TARGET) -> dict[str, Any]:
    """Train the run's recipe on its dataset and return train.json.

    Raises:
        LaunchError: the job failed; the text has its own error.
        RunMissing: no run was opened under this key.
    """
    run = Run(store=ObjectStore.from_env(), key=run_key)
    recipe = run.recipe()
    done = _finished(run)
    if done is not None:
        _LOG.info("run %s is trained already: %s", run.key, done["checkpoint"]["uri"])
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
    return run.read("train.json", made_by=TRAIN_COMMAND)


def _finished(run: Run) -> dict[str, Any] | None:
    """train.json, if the checkpoint that it names is still there as a whole."""
    train = run.find("train.json")
    if train is None:
        return None
    latest = latest_checkpoint(run.store, run.key)
    whole = latest is not None and latest.digest == train["checkpoint"]["digest"]
    return train if whole else None
