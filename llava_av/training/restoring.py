"""Loading of the newest intact checkpoint, whatever its number of processes and sharding."""

import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from torch import distributed

from llava_av.checkpoints import (
    CheckpointError,
    CheckpointManifest,
    CheckpointRef,
    fetch_checkpoint,
    whole_checkpoints,
)
from llava_av.checkpoints.shard_files import describe_tensors, read_tensors
from llava_av.checkpoints.shard_index import SHARD_INDEX, ShardIndex, parse_index, random_name, state_root
from llava_av.recipe import Recipe
from llava_av.storage import ObjectStore, map_parallel
from llava_av.training.collective import CpuGroup
from llava_av.training.engines import Engine
from llava_av.training.random_state import random_state, seed_generators, set_random_state
from llava_av.training.safe_loading import loading_from
from llava_av.training.sharded_state import load_state, needed_files, shard_files

__all__ = ["Restoring"]

_LOG = logging.getLogger(__name__)
_HASHING_THREADS = 2


class Restoring:
    """Restores a training; all processes call every method together."""

    def __init__(
        self,
        store: ObjectStore,
        engine: Engine,
        group: CpuGroup,
        folder: Path,
        *,
        seed: int,
        frozen: Mapping[str, str],
        base_digest: str | None = None,
    ) -> None:
        """Prepare for `newest`.

        Args:
            store: Store of the checkpoints.
            engine: Engine to load into.
            group: All processes.
            folder: Local folder for files.
            seed: Seed of the stage, for the random number generators of another number of processes.
            frozen: Checksums of the parameters that are not trained.
            base_digest: Digest of the model that the stage started from; None to accept any.
        """
        self._store = store
        self._engine = engine
        self._group = group
        # Nodes may share a disk.
        self._folder = folder / f"restoring-{_node()}"
        self._seed = seed
        self._frozen = dict(frozen)
        self._base_digest = base_digest

    def newest(self, run: str, steps: range | None = None) -> CheckpointRef | None:
        """Load the newest complete and intact checkpoint; return None if there is none.

        Args:
            run: Run ID.
            steps: Steps of the checkpoints to consider, those of a stage; None for all.

        Raises:
            CheckpointError: A checkpoint that is intact could not be restored, and no older one is left.
        """
        mixed = ""
        every = whole_checkpoints(self._store, run) if self._group.is_rank_zero else ()
        found = [one for one in every if steps is None or one.step in steps]
        for reference in self._group.broadcast(found):
            self._clear()
            problem, contents = self._fetch(reference)
            if contents is not None:
                problem = mixed = self._load(reference, *contents)
            self._group.gather(None)
            self._clear()
            if not problem:
                return reference
            if self._group.is_rank_zero:
                _LOG.warning("skipping a checkpoint: %s", problem)
        if mixed:
            raise CheckpointError(f"{mixed}: delete that checkpoint and train again")
        return None

    def _fetch(self, reference: CheckpointRef) -> tuple[str, tuple[CheckpointManifest, ShardIndex] | None]:
        """Download what the processes of each node need; return a problem, or manifest and index."""
        problem, contents = self._group.broadcast(
            self._read(reference) if self._group.is_rank_zero else ("", None)
        )
        if contents is None:
            return problem, None
        needed = needed_files(contents[1], self._engine.fragments())
        every = self._group.gather((_node(), needed))
        if _is_local_rank_zero():
            names = {name for node, part in every if node == _node() for name in part}
            try:
                fetch_checkpoint(self._store, reference.uri, self._folder, names)
            except CheckpointError as error:
                problem = str(error)
        problem = self._any_problem(problem)
        return problem, None if problem else contents

    def _read(self, reference: CheckpointRef) -> tuple[str, tuple[CheckpointManifest, ShardIndex] | None]:
        try:
            manifest = fetch_checkpoint(self._store, reference.uri, self._folder, [SHARD_INDEX])
            if self._base_digest not in (None, _base_digest(manifest)):
                return f"checkpoint {reference.uri}: its stage started from another model", None
            with loading_from(reference.uri):
                return "", (manifest, parse_index((self._folder / SHARD_INDEX).read_bytes()))
        except CheckpointError as error:
            return str(error), None

    def _load(self, reference: CheckpointRef, manifest: CheckpointManifest, index: ShardIndex) -> str:
        """Load the state; return the problem, empty if there is none."""
        root = state_root(manifest.files, manifest.data_position)
        if root != manifest.digest:
            return f"checkpoint {reference.uri}: its state has digest {root[:12]}, not {manifest.digest[:12]}"
        if index.frozen != self._frozen:
            names = (name for name, _ in sorted(index.frozen.items() ^ self._frozen.items()))
            return (
                f"checkpoint {reference.uri}: the weight {next(names)}, which is not trained, differs from "
                "the one that this run started with: use the code and the base model of that time"
            )
        is_same_size = index.processes == distributed.get_world_size()
        with loading_from(reference.uri):
            load_state(self._engine, index, self._folder)
            if is_same_size:
                set_random_state(read_tensors(self._folder / random_name(distributed.get_rank())))
        if not is_same_size:
            seed_generators(self._seed, distributed.get_rank(), reference.step)
        different = self._different(manifest, index, with_generators=is_same_size)
        return self._any_problem(
            f"checkpoint {reference.uri}: the restored state differs from {different}" if different else ""
        )

    def _different(
        self, manifest: CheckpointManifest, index: ShardIndex, *, with_generators: bool
    ) -> str | None:
        """Return a file that this process would now write with other content; None with another sharding."""
        files = shard_files(self._engine.fragments(), self._engine.buffers(), random_state())
        if any(index.files.get(one.name) != one.ranges for one in files if one.ranges):
            return None
        own = random_name(distributed.get_rank())
        files = [one for one in files if with_generators or one.name != own]
        hashes = map_parallel(lambda one: describe_tensors(one.tensors), files, workers=_HASHING_THREADS)
        pairs = zip(files, hashes, strict=True)
        return next((one.name for one, found in pairs if manifest.files.get(one.name) != found), None)

    def _any_problem(self, problem: str) -> str:
        """Return the problem of the lowest rank that has one; empty if none has."""
        return next((one for one in self._group.gather(problem) if one), "")

    def _clear(self) -> None:
        if _is_local_rank_zero():
            shutil.rmtree(self._folder, ignore_errors=True)
        self._group.gather(None)


def _base_digest(manifest: CheckpointManifest) -> str | None:
    """Return the digest of the base model in the recipe of a checkpoint."""
    return Recipe.model_validate(manifest.extra["recipe"]).model.base_digest


def _node() -> str:
    return os.environ.get("GROUP_RANK", "0")


def _is_local_rank_zero() -> bool:
    return os.environ.get("LOCAL_RANK", "0") == "0"
