"""Global random number generators: their seeds and their state in a checkpoint.

The order of samples does not depend on them: it is a function of the position.
"""

import random
from typing import Any

import numpy as np
import torch

__all__ = ["random_state", "seed_generators", "set_random_state"]


def seed_generators(seed: int, rank: int) -> None:
    """Seed every global random number generator, differently in each process, so that dropout differs."""
    torch.manual_seed(seed * 1000 + rank)
    random.seed(seed * 1000 + rank)
    np.random.seed((seed * 1000 + rank) % 2**32)


def random_state() -> dict[str, Any]:
    """Return the state of every global generator that a step may draw from."""
    state: dict[str, Any] = {"torch": torch.get_rng_state(), "python": random.getstate()}
    numpy: Any = np.random.get_state(legacy=False)
    key = torch.from_numpy(numpy["state"]["key"].astype(np.int64))
    gauss = (int(numpy["has_gauss"]), float(numpy["gauss"]))
    state["numpy"] = {"key": key, "pos": int(numpy["state"]["pos"]), "gauss": gauss}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: dict[str, Any]) -> None:
    """Restore the state of every global generator."""
    torch.set_rng_state(state["torch"])
    random.setstate(state["python"])
    key = state["numpy"]["key"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", key, state["numpy"]["pos"], *state["numpy"]["gauss"]))
    if "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"])
