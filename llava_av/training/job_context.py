"""The run that a training job works on, its data and its model."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from torch import distributed
from transformers.utils.logging import disable_progress_bar

from llava_av.checkpoints import base_folder, fetch_base
from llava_av.datasets.checkout import checkout, read_split
from llava_av.datasets.commits import read_commit
from llava_av.datasets.schema import Sample
from llava_av.model import LlavaAvForConditionalGeneration, LlavaAvProcessor, base_model, fresh_model
from llava_av.provenance.source_code import require_code
from llava_av.recipe import Recipe
from llava_av.runs import Run, RunRequest
from llava_av.storage import ObjectStore
from llava_av.training.engines import start_processes

__all__ = ["JobContext", "fetch_train_split", "load_model", "open_job"]


@dataclass(frozen=True, kw_only=True)
class JobContext:
    """Run of a job, and the rank of this process in the group."""

    run: Run
    request: RunRequest
    work: Path
    rank: int
    processes: int

    @property
    def recipe(self) -> Recipe:
        """Return the recipe of the run."""
        return self.request.recipe

    @property
    def folder(self) -> Path:
        """Return this run's own local folder."""
        return self.work / self.run.id

    @property
    def first(self) -> bool:
        """Return whether this process acts for all processes."""
        return self.rank == 0


def open_job(run: str, work: Path) -> JobContext:
    """Read the request of a run and join its process group.

    Raises:
        RunMissing: There is no such run.
        SourceCodeError: The run was opened with other code.
    """
    # A progress bar would be the last line of a job's log.
    disable_progress_bar()
    opened = Run(store=ObjectStore.from_env(), id=run)
    request = opened.request()
    require_code(opened.code().digest)
    rank, processes = start_processes(request.recipe.training.engine)
    return JobContext(run=opened, request=request, work=work, rank=rank, processes=processes)


def fetch_train_split(job: JobContext) -> tuple[Path, tuple[Sample, ...]]:
    """Return a verified local copy of the train split, which one process of each node makes."""
    store, named = job.run.store, job.request.dataset
    commit = read_commit(store, named.name, named.commit)
    data = checkout(store, commit, job.work / "data" / commit.id[:16])
    return data, read_split(data, "train")


def load_model(
    job: JobContext, samples: tuple[Sample, ...]
) -> tuple[LlavaAvForConditionalGeneration, LlavaAvProcessor]:
    """Return the base model, which one process of each node fetches, or a fresh model."""
    recipe = job.recipe
    base, digest = recipe.model.base, recipe.model.base_digest
    if base is None or digest is None:
        return fresh_model(recipe, _texts(samples))
    if os.environ.get("LOCAL_RANK", "0") == "0":
        fetch_base(base, digest, job.work)
    if distributed.is_initialized():
        distributed.barrier()
    return base_model(recipe, base_folder(base, digest, job.work))


def _texts(samples: tuple[Sample, ...]) -> Iterator[str]:
    return (turn.value for sample in samples for turn in sample.conversations)
