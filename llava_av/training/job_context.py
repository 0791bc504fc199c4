"""Run of a training job, its stage, its data and its model."""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

from torch import distributed
from transformers.utils.logging import disable_progress_bar

from llava_av.checkpoints import base_folder, fetch_base, read_base_config
from llava_av.datasets.commits import Commit, read_commit
from llava_av.datasets.manifest import CommitError
from llava_av.datasets.media_stream import CACHE_FOLDER
from llava_av.datasets.mix import DatasetMix, DatasetSplits, cap_samples
from llava_av.datasets.sample_table import sample_table
from llava_av.datasets.schema import Sample
from llava_av.model import LlavaAvForConditionalGeneration, LlavaAvProcessor, base_model, fresh_model
from llava_av.plurals import count_of
from llava_av.provenance.source_code import require_code
from llava_av.recipe import Recipe, media_differences
from llava_av.runs import Run, RunRequest, TrainedStage
from llava_av.storage import ObjectStore
from llava_av.training.console import report_phase
from llava_av.training.engines import reads_weights, start_processes
from llava_av.training.fresh_start import deferred_fresh_model, has_several_local_processes
from llava_av.training.stages import JobStage

__all__ = [
    "Datasets",
    "JobContext",
    "TrainingData",
    "load_model",
    "mixed_folder",
    "open_job",
    "read_datasets",
]

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

    def report_phase(self, name: str) -> None:
        """Report what all processes do before the next step; only rank zero does so."""
        if self.is_rank_zero:
            report_phase(name)

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
    """Samples of a run's datasets."""

    train: Sequence[Sample]
    """Training samples of all datasets."""
    held_out: Sequence[Sample]
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

    commits: tuple[Commit, ...]
    splits: tuple[DatasetSplits, ...]
    """Samples of each commit."""

    def select(self, recipe: Recipe) -> TrainingData:
        """Return the samples that the recipe of a stage selects.

        Samples of a single dataset are as its commit has them.

        Raises:
            DatasetError: No training sample of a dataset is left.
        """
        most, seed = recipe.data.max_samples, recipe.seed
        if len(self.splits) == 1:
            [one] = self.splits
            train = cap_samples(one.train, most(one.name), seed)
            return TrainingData(train=train, held_out=one.held_out, left_out={})
        train, left_out = self._mix.train(most, seed)
        return TrainingData(train=train, held_out=self._mix.held_out, left_out=left_out)

    @cached_property
    def _mix(self) -> DatasetMix:
        return DatasetMix(self.splits)


def read_datasets(job: JobContext) -> Datasets:
    """Return the samples of the run's datasets, without their media."""
    store, names = job.run.store, job.request.datasets
    commits = tuple(read_commit(store, named.name, named.commit) for named in names)
    folder = job.work / CACHE_FOLDER / "samples"
    splits = tuple(_read_splits(store, commit, folder, is_mixed=len(names) > 1) for commit in commits)
    return Datasets(commits=commits, splits=splits)


def _read_splits(store: ObjectStore, commit: Commit, folder: Path, *, is_mixed: bool) -> DatasetSplits:
    def read(split: str) -> Sequence[Sample]:
        return sample_table(store, commit, split, folder) if found[split].samples else ()

    found = commit.manifest.splits
    if "train" not in found:
        raise CommitError(
            f"commit {commit.id} has no split train; it has {', '.join(found)}: train on a commit with it"
        )
    return DatasetSplits(
        name=commit.name,
        folder=mixed_folder(commit) if is_mixed else "",
        files=commit.reader(store).files,
        train=read("train"),
        held_out=read("held_out") if "held_out" in found else (),
    )


def mixed_folder(commit: Commit) -> str:
    """Return the folder that precedes the media paths of a commit in a run of several."""
    return commit.id[:16]


def load_model(
    job: JobContext, samples: Sequence[Sample]
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


def _texts(samples: Sequence[Sample]) -> Iterator[str]:
    return (turn.value for sample in samples for turn in sample.conversations)
