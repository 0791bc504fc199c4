"""Saving and restoring of all state that the next step depends on."""

import json
import logging
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed

from llava_av.checkpoints import (
    CheckpointError,
    CheckpointRef,
    CheckpointState,
    fetch_checkpoint,
    prune,
    state_digest,
    whole_checkpoints,
    write_checkpoint,
)
from llava_av.model import LlavaAvForConditionalGeneration, LlavaAvProcessor
from llava_av.recipe import Recipe
from llava_av.storage import ObjectStore
from llava_av.training.engines import Engine
from llava_av.training.random_state import random_state, set_random_state
from llava_av.training.safe_loading import load_data, loading_from

__all__ = ["Checkpointer"]

_LOG = logging.getLogger(__name__)


class Checkpointer:
    """Checkpoints of one run; all processes call every method together.

    A checkpoint holds `model/` (a Hugging Face folder in the recipe's precision), `engine/` (weights and
    optimizer state in the format of the engine) and `rng-RANK.pt`. Its digest covers weights, optimizer
    state, random state and data position.
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
    ) -> None:
        self._store = store
        self._run = run
        self._recipe = recipe
        self._engine = engine
        self._model = model
        self._processor = processor
        self._work = work

    def save(self, step: int) -> CheckpointRef:
        """Write the checkpoint after `step` optimizer steps; replace a damaged or different one."""
        folder = self._empty_folder("saving")
        position = self._position(step)
        rng = random_state()
        self._engine.save(folder / "engine")
        torch.save(rng, folder / f"rng-{distributed.get_rank()}.pt")
        weights = self._engine.weights()
        digest = self._digest(position, rng, weights)
        if distributed.get_rank() == 0:
            self._save_model(folder / "model", weights)
        distributed.barrier()
        # A node sees only its own files.
        paths = sorted(folder.rglob("*")) if _is_local_rank_zero() else []
        reference = write_checkpoint(
            self._store,
            self._run,
            step,
            {str(path.relative_to(folder)): path for path in paths if path.is_file()},
            CheckpointState(digest=digest, data_position=position),
            extra=self._extra(),
            writers=_AllProcesses(),
            replace=True,
        )
        if _is_local_rank_zero():
            shutil.rmtree(folder, ignore_errors=True)
        return reference

    def _save_model(self, folder: Path, weights: dict[str, Tensor]) -> None:
        """Write a Hugging Face folder in the precision that the model computes with."""
        bf16 = self._recipe.training.precision == "bf16"
        if bf16:
            weights = {
                name: one.bfloat16() if one.is_floating_point() else one for name, one in weights.items()
            }
        self._model.save_pretrained(folder, state_dict=weights)
        if bf16:
            # transformers has noted the dtype of the weights in memory, which are the optimizer's.
            self._model.config.dtype = torch.bfloat16
            self._model.config.save_pretrained(folder)
        self._processor.save_pretrained(folder)

    def prune(self, best: int | None = None) -> None:
        """Delete old checkpoints; call it after a finite step that started from the latest one.

        Args:
            best: Step of the best checkpoint, which is kept in addition to the latest ones.
        """
        if distributed.get_rank() == 0:
            keep = self._recipe.training.keep_latest_checkpoints
            prune(self._store, self._run, keep, () if best is None else (best,))

    def restore(self) -> CheckpointRef | None:
        """Load the latest complete checkpoint that is intact; return None if there is none.

        A damaged checkpoint is skipped with a warning, and replaced when training reaches its step again.

        Raises:
            CheckpointError: The restored state has another digest than the saved one, and no older checkpoint
                is left.
        """
        mixed = ""
        for reference in self._candidates():
            folder = self._empty_folder("restoring")
            problem = _first_problem(partial(self._fetch, reference, folder))
            if not problem:
                problem = mixed = self._load(reference, folder)
            distributed.barrier()
            if _is_local_rank_zero():
                shutil.rmtree(folder, ignore_errors=True)
            if not problem:
                return reference
            if distributed.get_rank() == 0:
                _LOG.warning("skipping a checkpoint: %s", problem)
        if mixed:
            raise CheckpointError(f"{mixed}: delete that checkpoint and train again")
        return None

    def _fetch(self, reference: CheckpointRef, folder: Path) -> None:
        if _is_local_rank_zero():
            fetch_checkpoint(self._store, reference.uri, folder)

    def _load(self, reference: CheckpointRef, folder: Path) -> str:
        """Load the state in a folder; return an error message if its digest differs, else nothing."""
        with loading_from(reference.uri):
            self._engine.load(folder / "engine")
            set_random_state(load_data(folder / f"rng-{distributed.get_rank()}.pt"))
        digest = self._digest(self._position(reference.step), random_state(), self._engine.weights())
        if digest == reference.digest:
            return ""
        return (
            f"checkpoint {reference.uri}: the restored state has digest {digest[:12]}, not "
            f"{reference.digest[:12]}"
        )

    def _candidates(self) -> list[CheckpointRef]:
        found: list[Any] = [None]
        if distributed.get_rank() == 0:
            found = [list(whole_checkpoints(self._store, self._run))]
        distributed.broadcast_object_list(found, src=0)
        return list(found[0])

    def _position(self, step: int) -> dict[str, int]:
        return {"step": step, "samples": step * self._recipe.training.global_batch_size}

    def _empty_folder(self, name: str) -> Path:
        # Nodes may share a disk.
        folder = self._work / f"{name}-{os.environ.get('GROUP_RANK', '0')}"
        if _is_local_rank_zero():
            shutil.rmtree(folder, ignore_errors=True)
            (folder / "engine").mkdir(parents=True)
        distributed.barrier()
        return folder

    def _digest(self, position: dict[str, int], rng: dict[str, Any], weights: dict[str, Tensor]) -> str:
        """Return one digest of the states of all processes; only rank zero must hold the weights."""
        mine = state_digest({"optimizer": self._engine.optimizer_state(), "rng": rng})
        every = _AllProcesses().gather(mine)
        digest = [""]
        if distributed.get_rank() == 0:
            digest = [state_digest({"weights": weights, "processes": every, "data_position": position})]
        distributed.broadcast_object_list(digest, src=0)
        return digest[0]

    def _extra(self) -> dict[str, Any]:
        return {
            "recipe": json.loads(self._recipe.canonical_json()),
            "processes": distributed.get_world_size(),
        }


class _AllProcesses:
    """All processes of the job, as the writers of a checkpoint."""

    @property
    def first(self) -> bool:
        return distributed.get_rank() == 0

    def gather(self, value: Any) -> list[Any]:
        every: list[Any] = [None] * distributed.get_world_size()
        distributed.all_gather_object(every, value)
        return every


def _first_problem(action: Callable[[], None]) -> str:
    """Run an action in every process; return the first checkpoint error of any, empty if there is none."""
    problem = ""
    try:
        action()
    except CheckpointError as error:
        problem = str(error)
    return next((one for one in _AllProcesses().gather(problem) if one), "")


def _is_local_rank_zero() -> bool:
    """Return whether this process acts for all processes on its node."""
    return os.environ.get("LOCAL_RANK", "0") == "0"
