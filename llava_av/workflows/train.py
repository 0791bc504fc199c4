"""Training of a run, unless it has finished before; an interrupted training resumes."""

import contextlib
import logging
from collections.abc import Iterator

from llava_av.checkpoints import latest_checkpoint, whole_checkpoints
from llava_av.errors import UserError
from llava_av.files import file_lock
from llava_av.launch.session_keys import session_policy
from llava_av.plurals import count_of
from llava_av.processes import report_progress
from llava_av.recipe import Recipe
from llava_av.runs import Run, StageResults, TrainedStage, TrainingResult
from llava_av.runs.run import stopwatch
from llava_av.storage import ObjectStore
from llava_av.training.stage_progress import finished_stages, indices_to_train
from llava_av.workflows.runtime.job_target import LOCAL_TARGET, JobTarget, run_job
from llava_av.workflows.runtime.retry import retry_transient
from llava_av.workflows.runtime.workspace import Workspace

__all__ = ["describing_interrupted", "stage_step", "train_step"]

_LOG = logging.getLogger(__name__)


@retry_transient
def train_step(workspace: Workspace, run_id: str, *, target: JobTarget = LOCAL_TARGET) -> TrainingResult:
    """Train the run's recipe on its dataset.

    Raises:
        LaunchError: The job failed; the message has the job's own error. Or the datasets are too many for the
            policy of session keys.
        RunMissing: No run has this ID.
    """
    run = Run(store=ObjectStore.from_env(), id=run_id)
    recipe = run.request().recipe
    done = _finished(run)
    if done is not None:
        _LOG.info("run %s is already trained: %s", run.id, done.checkpoint.uri)
        return done
    with run.timed("train"):
        _run_training(workspace, run, target, recipe)
    return run.read(TrainingResult)


@retry_transient
def stage_step(
    workspace: Workspace, run_id: str, stage: str, *, target: JobTarget = LOCAL_TARGET
) -> TrainedStage:
    """Train one stage of the run's recipe, unless it is finished.

    Raises:
        LaunchError: The job failed; the message has the job's own error.
        RecipeError: The recipe has no such stage.
        UserError: The previous stage is not finished.
    """
    run = Run(store=ObjectStore.from_env(), id=run_id)
    recipe = run.request().recipe
    index = recipe.schedule.named(stage).index
    done = _finished(run)
    if done is None and indices_to_train(recipe, finished_stages(run), stage):
        before = run.seconds(["train"])
        with stopwatch() as watch:
            _run_training(workspace, run, target, recipe, "--stage", stage)
        # The duration of the training is the sum of those of its stages.
        run.record_seconds("train", before.get("train", 0.0) + watch.seconds)
    else:
        _LOG.info("stage %s of run %s is already trained", stage, run.id)
    is_last = index + 1 == len(recipe.stages)
    ended = run.read(TrainingResult) if is_last or done is not None else run.read(StageResults)
    return ended.stages[index]


def _run_training(workspace: Workspace, run: Run, target: JobTarget, recipe: Recipe, *arguments: str) -> None:
    if target.profile is not None and target.profile.session_credentials:
        # A policy that is too long fails here, not in each pod of the job.
        session_policy(run)
    report_progress(
        "train", 0, 0, f"starting {count_of(recipe.training.num_processes, 'process', 'processes')}"
    )
    with contextlib.nullcontext() if target.profile is not None else _only_job(workspace, run):
        run_job(
            workspace,
            run,
            target,
            name="training",
            module="llava_av.training",
            processes=recipe.training.num_processes,
            arguments=arguments,
        )


@contextlib.contextmanager
def _only_job(workspace: Workspace, run: Run) -> Iterator[None]:
    """Keep other commands from training the run in the same folder, whose files they would replace.

    Raises:
        UserError: Another command trains it.
    """
    folder = workspace.work / run.id
    folder.mkdir(parents=True, exist_ok=True)
    refusal = UserError(
        f"run {run.id} is being trained in {workspace.folder} by another command: wait for it, or end it"
    )
    with file_lock(folder / "training.lock", refusal=refusal):
        yield


@contextlib.contextmanager
def describing_interrupted(run: Run) -> Iterator[None]:
    """Log which step of a run is saved, and how to resume, if a signal ends the block."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        with contextlib.suppress(UserError):
            saved = latest_checkpoint(run.store, run.id)
            done = "no step is saved" if saved is None else f"step {saved.step} is saved"
            _LOG.warning("run %s was interrupted, %s: run the same command again to resume", run.id, done)
        raise


def _finished(run: Run) -> TrainingResult | None:
    """Return the result of training if its checkpoint still exists and is complete, else None."""
    train = run.find(TrainingResult)
    if train is None:
        return None
    # The best checkpoint is older than the latest ones.
    found = {one.step: one.digest for one in whole_checkpoints(run.store, run.id)}
    return train if found.get(train.checkpoint.step) == train.checkpoint.digest else None
