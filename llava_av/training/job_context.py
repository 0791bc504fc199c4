"""Run of a training job, its data and its model."""

import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from torch import distributed
from transformers.utils.logging import disable_progress_bar

from llava_av.checkpoints import base_folder, fetch_base, read_base_config
from llava_av.datasets.checkout import checkout, read_split
from llava_av.datasets.commits import read_commit
from llava_av.datasets.mix import DatasetSplits, cap_samples, join
from llava_av.datasets.schema import Sample
from llava_av.model import LlavaAvForConditionalGeneration, LlavaAvProcessor, base_model, fresh_model
from llava_av.plurals import count_of
from llava_av.provenance.source_code import require_code
from llava_av.recipe import Recipe, media_differences
from llava_av.runs import DatasetName, Run, RunRequest
from llava_av.storage import ObjectStore
from llava_av.training.engines import reads_weights, start_processes

__all__ = ["JobContext", "TrainingData", "fetch_data", "load_model", "open_job"]

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class JobContext:
    """Run of a job, its local folder, and the rank of this process in the group."""

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
    def is_rank_zero(self) -> bool:
        """Return whether this process is rank zero, which acts for all processes."""
        return self.rank == 0


def open_job(run: str, work: Path) -> JobContext:
    """Read the request of a run and join its process group.

    Raises:
        RunMissing: The run does not exist.
        SourceCodeError: The run was opened with other code.
    """
    # A progress bar would be the last line of a job's log.
    disable_progress_bar()
    opened = Run(store=ObjectStore.from_env(), id=run)
    request = opened.request()
    require_code(opened.code().digest)
    rank, processes = start_processes(request.recipe.training.engine)
    return JobContext(run=opened, request=request, work=work, rank=rank, processes=processes)


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """Samples of a run's datasets, with local copies of their media."""

    root: Path
    """Folder that media paths are relative to."""
    train: tuple[Sample, ...]
    """Training samples of all datasets."""
    held_out: tuple[Sample, ...]
    """Held-out samples of all datasets."""
    left_out: Mapping[str, int]
    """Number of training samples left out of each of several datasets: another one holds out their media."""


def fetch_data(job: JobContext) -> TrainingData:
    """Return the samples of the run's datasets; one process of each node makes verified local copies.

    Samples of a single dataset are as its commit has them.

    Raises:
        DatasetError: No training sample of a dataset is left.
    """
    root = job.work / "data"
    fetched = [_fetch_splits(job, named, root) for named in job.request.datasets]
    if len(fetched) == 1:
        [one] = fetched
        train = _capped(job, one).train
        return TrainingData(
            root=root / one.folder, train=tuple(train), held_out=tuple(one.held_out), left_out={}
        )
    train, held_out, left_out = join([_capped(job, one) for one in fetched])
    for name, count in left_out.items():
        if count and job.is_rank_zero:
            _LOG.warning(
                "dataset %s: %s left out, because another dataset of the run holds out their media",
                name,
                count_of(count, "training sample"),
            )
    return TrainingData(root=root, train=train, held_out=held_out, left_out=left_out)


def _fetch_splits(job: JobContext, named: DatasetName, root: Path) -> DatasetSplits:
    commit = read_commit(job.run.store, named.name, named.commit)
    lists = tuple(split for split in ("train", "held_out") if split in commit.manifest.splits)
    # Media of held-out samples are read only to measure their loss.
    splits = lists if job.recipe.training.validation_interval is not None else ("train",)
    folder = checkout(job.run.store, commit, root / commit.id[:16], splits, lists=lists)
    return DatasetSplits(
        name=commit.name,
        folder=folder.name,
        manifest=commit.manifest,
        train=read_split(folder, "train"),
        held_out=read_split(folder, "held_out") if "held_out" in commit.manifest.splits else (),
    )


def _capped(job: JobContext, dataset: DatasetSplits) -> DatasetSplits:
    most = job.recipe.data.max_samples(dataset.name)
    return replace(dataset, train=cap_samples(dataset.train, most, job.recipe.seed))


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
    folder = base_folder(base, digest, job.work)
    if job.is_rank_zero:
        for difference in media_differences(recipe, read_base_config(str(folder))):
            _LOG.warning("the model is trained with another setting: %s", difference)
    return base_model(recipe, folder, defer=reads_weights(recipe, job.processes))


def _texts(samples: tuple[Sample, ...]) -> Iterator[str]:
    return (turn.value for sample in samples for turn in sample.conversations)
