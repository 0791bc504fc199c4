"""Saving and restoring of all state that the next step depends on, by all processes of a training.

A save copies this process's ranges of the state to host memory and returns. A thread of each process then
writes, hashes and uploads its own files, and rank zero writes the manifest when all have. At most one save is
in progress, and the next one waits for it. The threads of all processes use a process group of their own,
because the training runs collectives meanwhile.
"""

import json
import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import distributed

from llava_av.checkpoints import (
    CheckpointError,
    CheckpointFile,
    CheckpointRef,
    CheckpointState,
    prune,
    write_checkpoint,
)
from llava_av.checkpoints.shard_files import write_tensors
from llava_av.checkpoints.shard_index import SHARD_INDEX, ShardIndex, state_root
from llava_av.model import LlavaAvForConditionalGeneration, LlavaAvProcessor
from llava_av.recipe import Recipe
from llava_av.runs import Run, Starts
from llava_av.storage import ObjectStore, file_sha256, map_parallel
from llava_av.training.collective import CpuGroup
from llava_av.training.engines import Engine, compute_dtype
from llava_av.training.host_copy import HostCopy
from llava_av.training.model_folder import saved_names, write_model_folder
from llava_av.training.random_state import random_state
from llava_av.training.restoring import Restoring
from llava_av.training.sharded_state import ShardFile, frozen_checksums, shard_files, updates_by_name
from llava_av.training.stages import JobStage

__all__ = ["Checkpointer"]

# A thread hashes more than a gigabyte per second; more threads would take cores from the training.
_WRITING_THREADS = 2


class Checkpointer:
    """Checkpoints of one run; all processes call every method together.

    A checkpoint holds `state/`: the ranges of the trained parameters of each process with their optimizer
    state, the state of its random number generators, buffers, and an index with checksums of the parameters
    that are not trained. The last one of a stage also holds `model/`, a Hugging Face folder in the recipe's
    precision.
    """

    def __init__(
        self,
        store: ObjectStore,
        run: str,
        recipe: Recipe,
        engine: Engine,
        model: LlavaAvForConditionalGeneration,
        processor: LlavaAvProcessor,
        work: Path,
        stage: JobStage | None = None,
    ) -> None:
        """Prepare for the checkpoints of a training, or of one stage of it.

        Args:
            store: Store of the checkpoints.
            run: Run ID.
            recipe: Recipe of the training or stage.
            engine: Engine with the state.
            model: The engine's model.
            processor: Processor of the model.
            work: Local folder for files.
            stage: The stage, to which restoring is limited; None for all checkpoints of the run.
        """
        self._stage = stage
        self._store = store
        self._run = run
        self._recipe = recipe
        self._engine = engine
        self._model = model
        self._processor = processor
        self._work = work
        self._group = CpuGroup()
        self._host = HostCopy(engine.fragments())
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._saving: Future[CheckpointRef] | None = None
        self._pruning: Future[Any] | None = None
        self._last: CheckpointRef | None = None
        self._opened = Run(store=store, id=run)
        self._starts = self._opened.find(Starts) if self._group.is_rank_zero else None

    def __enter__(self) -> "Checkpointer":
        """Finish the save in progress when the block ends, also if it raises."""
        return self

    def __exit__(self, *_: object) -> None:
        """Wait for the thread; an error of the block matters more than one of the thread."""
        self._thread.shutdown()

    def close(self) -> None:
        """Release the process group of the checkpoints; the last call."""
        self._group.close()

    def restore(self) -> CheckpointRef | None:
        """Load the latest complete checkpoint that is intact; return None if there is none.

        A damaged checkpoint is skipped with a warning, and replaced when training reaches its step again.

        Raises:
            CheckpointError: The restored state is not the saved one, and no older checkpoint is left.
        """
        restoring = Restoring(
            self._store,
            self._engine,
            self._group,
            self._work,
            seed=self._recipe.seed if self._stage is None else self._stage.seed,
            frozen=self._frozen,
            base_digest=self._recipe.model.base_digest if self._stage and self._stage.earlier else None,
        )
        span = None if self._stage is None else self._stage.span
        return restoring.newest(self._run, None if span is None else range(span.first + 1, span.end + 1))

    def save(
        self,
        step: int,
        *,
        with_model: bool = False,
        best: int | None = None,
        before_manifest: Callable[[], object] = int,
    ) -> None:
        """Start to write the checkpoint after `step` steps; replace a damaged or different one.

        Args:
            step: Completed optimizer steps.
            with_model: Write `model/` too, which gathers the weights.
            best: See `stepped`.
            before_manifest: Rank zero calls this before it writes the manifest, which completes the
                checkpoint.

        Raises:
            UserError: The previous checkpoint could not be written.
        """
        self.finish(best)
        folder = self._work / f"saving-{distributed.get_rank()}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        if with_model:
            self._save_model(folder / "model")
        fragments = self._host.take(self._engine.fragments())
        buffers = {name: one.detach().cpu().clone() for name, one in self._engine.buffers().items()}
        files = shard_files(fragments, buffers, random_state())
        updates = updates_by_name(fragments)
        frozen = self._frozen
        self._saving = self._thread.submit(self._write, step, folder, files, updates, frozen, before_manifest)

    def stepped(self, best: int | None = None) -> CheckpointRef | None:
        """Report that a step was finite; return the checkpoint that has become complete since the last call.

        Rank zero then deletes old checkpoints, because training could continue from this one.

        Args:
            best: Step of the best checkpoint, which is kept in addition to the latest ones.

        Raises:
            UserError: The checkpoint could not be written.
        """
        if self._saving is None or not self._saving.done():
            return None
        return self._collect(best)

    def finish(self, best: int | None = None) -> CheckpointRef | None:
        """Wait for the checkpoint that is being written; return the last one of this job.

        Args:
            best: See `stepped`.

        Raises:
            UserError: It could not be written.
        """
        if self._saving is not None:
            self._collect(best)
        if self._pruning is not None:
            self._pruning.result()
        return self._last

    def _collect(self, best: int | None) -> CheckpointRef:
        assert self._saving is not None
        self._last = self._saving.result()
        self._saving = None
        if self._group.is_rank_zero:
            keep = self._recipe.training.keep_latest_checkpoints
            protected, newest = () if best is None else (best,), None
            if self._stage is not None:
                protected, newest = (*protected, *self._stage.kept_steps), self._stage.span.end
            self._pruning = self._thread.submit(prune, self._store, self._run, keep, protected, newest)
        return self._last

    def _write(
        self,
        step: int,
        folder: Path,
        files: list[ShardFile],
        updates: dict[str, float],
        frozen: dict[str, str],
        before_manifest: Callable[[], object],
    ) -> CheckpointRef:
        """Write, hash and upload a checkpoint with the other processes."""
        hashes = map_parallel(
            lambda one: write_tensors(folder / one.name, one.tensors), files, workers=_WRITING_THREADS
        )
        described = {one.name: found for one, found in zip(files, hashes, strict=True)}
        every = self._group.gather((described, {one.name: one.ranges for one in files}, updates))
        position = self._position(step)
        if self._group.is_rank_zero:
            self._require_single_job()
            before_manifest()
            index = ShardIndex(
                processes=len(every),
                updates={name: count for _, _, part in every for name, count in part.items()},
                frozen=frozen,
                files={name: ranges for _, part, _ in every for name, ranges in part.items() if ranges},
            )
            (folder / SHARD_INDEX).write_text(json.dumps(index.model_dump(mode="json"), sort_keys=True))
            described |= _describe(folder, [SHARD_INDEX, *_names(folder / "model")])
        parts = described | {name: one for part, _, _ in every for name, one in part.items()}
        digest = self._group.broadcast(state_root(parts, position))
        reference = write_checkpoint(
            self._store,
            self._run,
            step,
            {name: folder / name for name in described},
            CheckpointState(digest=digest, data_position=position),
            extra=self._extra(),
            writers=self._group,
            replace=True,
            described=described,
        )
        shutil.rmtree(folder, ignore_errors=True)
        return reference

    def _require_single_job(self) -> None:
        """Require that this is the newest job of the run.

        Raises:
            CheckpointError: Another one has started since, such as one with more processes.
        """
        if self._opened.find(Starts) != self._starts:
            raise CheckpointError(
                f"run {self._run}: another job of this run has started, and only the newest job may write: "
                "follow that job"
            )

    def _save_model(self, folder: Path) -> None:
        """Write a Hugging Face folder in the precision that the model computes with."""
        weights = self._engine.weights(saved_names(self._model, self._recipe))
        if not self._group.is_rank_zero:
            return
        write_model_folder(folder, self._model, self._processor, self._recipe, weights)

    @cached_property
    def _frozen(self) -> dict[str, str]:
        """Checksums of the parameters that are not trained."""
        dtype = compute_dtype(self._recipe.training.precision)
        return frozen_checksums(self._engine.frozen(), dtype, self._group)

    def _position(self, step: int) -> dict[str, Any]:
        """Return the step, and the number of samples drawn in its stage."""
        first = 0 if self._stage is None else self._stage.span.first
        row = {} if self._stage is None else self._stage.row
        return {"step": step, "samples": (step - first) * self._recipe.training.global_batch_size, **row}

    def _extra(self) -> dict[str, Any]:
        return {
            "recipe": json.loads(self._recipe.canonical_json()),
            "processes": distributed.get_world_size(),
        }


def _names(folder: Path) -> list[str]:
    """Return the files of a folder of a checkpoint by their names in the checkpoint."""
    return [f"{folder.name}/{path.name}" for path in sorted(folder.iterdir())] if folder.is_dir() else []


def _describe(folder: Path, names: list[str]) -> dict[str, CheckpointFile]:
    paths = {name: folder / name for name in names}
    return {
        name: CheckpointFile(sha256=file_sha256(path), bytes=path.stat().st_size)
        for name, path in paths.items()
    }
