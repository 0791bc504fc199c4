"""Saving and restoring everything that the next step depends on."""

import json
import logging
import os
import random
import shutil
from collections.abc import Callable
from functools import partial
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
    read_manifest,
    state_digest,
    whole_checkpoints,
    write_checkpoint,
)
from llava_av.model import LlavaAvForConditionalGeneration, LlavaAvProcessor
from llava_av.recipe import Recipe
from llava_av.storage import ObjectStore
from llava_av.training.engine import Engine
from llava_av.training.safe_loading import load_data, loading_from

__all__ = ["Checkpointer", "goes_on_by_part", "seed_generators"]

_LOG = logging.getLogger(__name__)
_BY_PART = "groups_by_part"


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
        *,
        by_part: bool = True,
    ) -> None:
        self._store = store
        self._run = run
        self._recipe = recipe
        self._engine = engine
        self._model = model
        self._processor = processor
        self._work = work
        self._by_part = by_part

    def save(self, step: int) -> CheckpointRef:
        """Write the checkpoint after `step` optimizer steps, in place of a damaged or diverging one."""
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
            replace=True,
        )
        if _first_of_node():
            shutil.rmtree(folder, ignore_errors=True)
        return reference

    def prune(self) -> None:
        """Delete old checkpoints; call it once a step that starts from the newest one was finite."""
        if distributed.get_rank() == 0:
            prune(self._store, self._run, self._recipe.training.keep_latest_checkpoints)

    def restore(self) -> CheckpointRef | None:
        """Load the newest whole checkpoint that is intact; None if there is none.

        Damaged ones are passed over with a warning. They are replaced once training reaches their step again.

        Raises:
            CheckpointError: what was loaded has another digest than what was saved, and no older checkpoint
                is left.
        """
        mixed = ""
        for reference in self._candidates():
            folder = self._empty_folder("restoring")
            problem = _first_problem(partial(self._fetch, reference, folder))
            if not problem:
                problem = mixed = self._load(reference, folder)
            distributed.barrier()
            if _first_of_node():
                shutil.rmtree(folder, ignore_errors=True)
            if not problem:
                return reference
            if distributed.get_rank() == 0:
                _LOG.warning("passed over: %s", problem)
        if mixed:
            raise CheckpointError(f"{mixed}: delete that checkpoint and train again")
        return None

    def _fetch(self, reference: CheckpointRef, folder: Path) -> None:
        if _first_of_node():
            fetch_checkpoint(self._store, reference.uri, folder)

    def _load(self, reference: CheckpointRef, folder: Path) -> str:
        """Load the state in a folder; return what is wrong with it."""
        with loading_from(reference.uri):
            self._engine.load(folder / "engine")
            _set_rng_state(load_data(folder / f"rng-{distributed.get_rank()}.pt"))
        digest = self._digest(self._position(reference.step), _rng_state(), self._engine.weights())
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
            **({_BY_PART: True} if self._by_part else {}),
        }


def goes_on_by_part(store: ObjectStore, run: str) -> bool:
    """Return whether the optimizer of a run groups weights by parts of the model.

    Runs whose checkpoints do not say so began before there were such groups, and keep the groups that they
    have: with others their states would not load, and the rest of the run would be computed otherwise.
    """
    by_part = [True]
    if distributed.get_rank() == 0:
        latest = latest_checkpoint(store, run)
        by_part = [latest is None or _BY_PART in read_manifest(store, latest.uri).extra]
    distributed.broadcast_object_list(by_part, src=0)
    return by_part[0]


class _AllProcesses:
    """The processes of the job as the writers of a checkpoint."""

    @property
    def first(self) -> bool:
        return distributed.get_rank() == 0

    def gather(self, value: Any) -> list[Any]:
        every: list[Any] = [None] * distributed.get_world_size()
        distributed.all_gather_object(every, value)
        return every


def _first_problem(action: Callable[[], None]) -> str:
    """Act in every process; return the first checkpoint error to all of them, empty if there is none."""
    problem = ""
    try:
        action()
    except CheckpointError as error:
        problem = str(error)
    return next((one for one in _AllProcesses().gather(problem) if one), "")


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
