"""Run of a training job, its stage, its data and its model."""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
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
from llava_av.runs import DatasetName, Run, RunRequest, TrainedStage
from llava_av.storage import ObjectStore
from llava_av.training.engines import reads_weights, start_processes
from llava_av.training.fresh_start import deferred_fresh_model, has_several_local_processes
from llava_av.training.stages import JobStage

__all__ = ["Datasets", "JobContext", "TrainingData", "fetch_datasets", "load_model", "open_job"]

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class JobContext:
    """Run of a job and its stage, its local folder, and the rank of this process in the group."""

    run: Run
    request: RunRequest
    stage: JobStage
    work: Path
    rank: int
    processes: int

    @property
    def recipe(self) -> Recipe:
        """Return the recipe of the stage; that of the run if it has no stages."""
        return self.stage.recipe

    def at_stage(self, index: int, finished: Sequence[TrainedStage]) -> "JobContext":
        """Return the job in a stage; see `JobStage.at`."""
        return replace(self, stage=JobStage.at(self.request.recipe, index, finished))

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
    stage = JobStage.at(request.recipe, 0, ())
    return JobContext(run=opened, request=request, stage=stage, work=work, rank=rank, processes=processes)


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

    def warn_of_left_out(self) -> None:
        """Warn of the training samples that are left out."""
        for name, count in self.left_out.items():
            if count:
                _LOG.warning(
                    "dataset %s: %s left out, because another dataset of the run holds out their media",
                    name,
                    count_of(count, "training sample"),
                )


@dataclass(frozen=True, kw_only=True)
class Datasets:
    """All samples of a run's datasets, from which each stage selects."""

    root: Path
    """Folder of the local copies of all datasets."""
    splits: tuple[DatasetSplits, ...]

    def select(self, recipe: Recipe) -> TrainingData:
        """Return the samples that the recipe of a stage selects.

        Samples of a single dataset are as its commit has them.

        Raises:
            DatasetError: No training sample of a dataset is left.
        """
        capped = [_capped(one, recipe) for one in self.splits]
        if len(capped) == 1:
            [one] = capped
            return TrainingData(
                root=self.root / one.folder, train=tuple(one.train), held_out=tuple(one.held_out), left_out={}
            )
        train, held_out, left_out = join(capped)
        return TrainingData(root=self.root, train=train, held_out=held_out, left_out=left_out)


def fetch_datasets(job: JobContext) -> Datasets:
    """Return the run's datasets; one process of each node makes verified local copies."""
    root = job.work / "data"
    splits = tuple(_fetch_splits(job, named, root) for named in job.request.datasets)
    return Datasets(root=root, splits=splits)


def _fetch_splits(job: JobContext, named: DatasetName, root: Path) -> DatasetSplits:
    commit = read_commit(job.run.store, named.name, named.commit)
    lists = tuple(split for split in ("train", "held_out") if split in commit.manifest.splits)
    # Media of held-out samples are read only to measure their loss, in all stages or in none.
    splits = lists if job.request.recipe.training.validation_interval is not None else ("train",)
    folder = checkout(job.run.store, commit, root / commit.id[:16], splits, lists=lists)
    is_mixed = len(job.request.datasets) > 1
    return DatasetSplits(
        name=commit.name,
        folder=folder.name,
        digests={row.path: row.sha256 for row in commit.reader(job.run.store).files} if is_mixed else {},
        train=read_split(folder, "train"),
        held_out=read_split(folder, "held_out") if "held_out" in commit.manifest.splits else (),
    )


def _capped(dataset: DatasetSplits, recipe: Recipe) -> DatasetSplits:
    most = recipe.data.max_samples(dataset.name)
    return replace(dataset, train=cap_samples(dataset.train, most, recipe.seed))


def load_model(
    job: JobContext, samples: tuple[Sample, ...]
) -> tuple[LlavaAvForConditionalGeneration, LlavaAvProcessor]:
    """Return the base model, which one process of each node fetches, or a fresh model."""
    recipe = job.recipe
    base, digest = recipe.model.base, recipe.model.base_digest
    # Without a process group there is no engine to read the weights.
    defers = distributed.is_initialized() and reads_weights(recipe, job.processes)
    if base is None or digest is None:
        if defers and has_several_local_processes():
            return deferred_fresh_model(recipe, partial(_texts, samples), job.folder)
        return fresh_model(recipe, _texts(samples))
    if os.environ.get("LOCAL_RANK", "0") == "0":
        fetch_base(base, digest, job.work)
    if distributed.is_initialized():
        distributed.barrier()
    folder = base_folder(base, digest, job.work)
    if job.is_rank_zero:
        for difference in media_differences(recipe, read_base_config(str(folder))):
            _LOG.warning("the model is trained with another setting: %s", difference)
    return base_model(recipe, folder, defer=defers)


def _texts(samples: tuple[Sample, ...]) -> Iterator[str]:
    return (turn.value for sample in samples for turn in sample.conversations)
