"""Saving and restoring everything that the next step depends on."""

import json
import os
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed

from llava_av.checkpoints import (
    CheckpointError,
    CheckpointRef,
    CheckpointState,
    fetch_checkpoint,
    latest_checkpoint,
    prune,
    state_digest,
    write_checkpoint,
)
from llava_av.model import LlavaAvForConditionalGeneration, LlavaAvProcessor
from llava_av.recipe import Recipe
from llava_av.storage import ObjectStore
from llava_av.training.engine import Engine

__all__ = ["Checkpointer", "seed_generators"]


class Checkpointer:
    """Writes and reads the checkpoints of one run; all processes call every method together.

    A checkpoint holds `model/` (a Hugging Face folder), `engine/` (weights and optimizer in the engine's own
    form) and `rng-RANK.pt`; its digest covers weights, optimizer, random states and data position.
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
        """Writes the checkpoint after `step` optimizer steps."""
        folder = self._empty_folder("saving")
        position = self._position(step)
        rng = _rng_state()
        self._engine.save(folder / "engine")
        torch.save(rng, folder / f"rng-{distributed.get_rank()}.pt")
        weights = self._engine.weights()
        digest = self._digest(position, rng, weights)
        if distributed.get_rank() == 0:
            self._model.save_pretrained(folder / "model", state_dict=weights)
            self._processor.save_pretrained(folder / "model")
        distributed.barrier()
        # A node sees its own files alone.
        paths = sorted(folder.rglob("*")) if _first_of_node() else []
        reference = write_checkpoint(
            self._store,
            self._run,
            step,
            {str(path.relative_to(folder)): path for path in paths if path.is_file()},
            CheckpointState(digest=digest, data_position=position),
            extra=self._extra(),
            writers=_AllProcesses(),
        )
        if distributed.get_rank() == 0:
            prune(self._store, self._run, self._recipe.training.keep_checkpoints)
        if _first_of_node():
            shutil.rmtree(folder, ignore_errors=True)
        return reference

    def restore(self) -> CheckpointRef | None:
        """Loads the newest whole checkpoint; None when there is none.

        Raises:
            CheckpointError: what was loaded has another digest than what was saved.
        """
        found: list[Any] = [
            latest_checkpoint(self._store, self._run) if distributed.get_rank() == 0 else None
        ]
        distributed.broadcast_object_list(found, src=0)
        if found[0] is None:
            return None
        reference: CheckpointRef = found[0]
        folder = self._empty_folder("restoring")
        if _first_of_node():
            fetch_checkpoint(self._store, reference.uri, folder)
        distributed.barrier()
        self._engine.load(folder / "engine")
        _set_rng_state(torch.load(folder / f"rng-{distributed.get_rank()}.pt", weights_only=True))
        digest = self._digest(self._position(reference.step), _rng_state(), self._engine.weights())
        if digest != reference.digest:
            raise CheckpointError(
                f"checkpoint {reference.uri}: the restored state has digest {digest[:12]}, not "
                f"{reference.digest[:12]}: delete that checkpoint and train again"
            )
        distributed.barrier()
        if _first_of_node():
            shutil.rmtree(folder, ignore_errors=True)
        return reference

    def _position(self, step: int) -> dict[str, int]:
        return {"step": step, "samples": step * self._recipe.training.samples_per_step}

    def _empty_folder(self, name: str) -> Path:
        # Nodes may share this disk.
        folder = self._work / f"{name}-{os.environ.get('GROUP_RANK', '0')}"
        if _first_of_node():
            shutil.rmtree(folder, ignore_errors=True)
            (folder / "engine").mkdir(parents=True)
        distributed.barrier()
        return folder

    def _digest(self, position: dict[str, int], rng: dict[str, Any], weights: dict[str, Tensor]) -> str:
        """One digest over the states of all processes; the first one alone may hold the weights."""
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
    """The processes of the job as the writers of a checkpoint."""

    @property
    def first(self) -> bool:
        return distributed.get_rank() == 0

    def gather(self, value: Any) -> list[Any]:
        every: list[Any] = [None] * distributed.get_world_size()
        distributed.all_gather_object(every, value)
        return every


def _first_of_node() -> bool:
    """Whether this process speaks for those that share its disk."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


def seed_generators(seed: int, rank: int) -> None:
    """Seeds every global generator, each process differently, so that runs repeat and dropout differs."""
    torch.manual_seed(seed * 1000 + rank)
    random.seed(seed * 1000 + rank)
    np.random.seed((seed * 1000 + rank) % 2**32)


def _rng_state() -> dict[str, Any]:
    """Every global generator that a step might draw from; the data order is a function of the position."""
    state: dict[str, Any] = {"torch": torch.get_rng_state(), "python": random.getstate()}
    numpy: Any = np.random.get_state(legacy=False)
    key = torch.from_numpy(numpy["state"]["key"].astype(np.int64))
    gauss = (int(numpy["has_gauss"]), float(numpy["gauss"]))
    state["numpy"] = {"key": key, "pos": int(numpy["state"]["pos"]), "gauss": gauss}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def _set_rng_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    random.setstate(state["python"])
    key = state["numpy"]["key"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", key, state["numpy"]["pos"], *state["numpy"]["gauss"]))
    if "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"])
