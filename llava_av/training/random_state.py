"""Global random number generators: their seeds and their state in a checkpoint.

The order of samples does not depend on them: it is a function of the position.
"""

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["random_state", "seed_generators", "set_random_state"]

_MOST_PROCESSES = 100_000


def seed_generators(seed: int, rank: int, step: int = 0) -> None:
    """Seed every global random number generator, differently in each process, so that dropout differs.

    Args:
        seed: Seed of the recipe.
        rank: Rank of this process.
        step: Step from which training resumes on another number of processes, whose generators have no
            earlier state.
    """
    own = seed * 1000 + rank + step * _MOST_PROCESSES * 1000
    torch.manual_seed(own % 2**63)
    random.seed(own)
    np.random.seed(own % 2**32)


def random_state() -> dict[str, Tensor]:
    """Return the state of every global generator that a step may draw from."""
    _, integers, gauss = random.getstate()
    numpy: Any = np.random.get_state(legacy=False)
    state = {
        "torch": torch.get_rng_state(),
        "python": torch.tensor(integers),
        "python_gauss": torch.tensor([] if gauss is None else [gauss], dtype=torch.float64),
        "numpy": torch.from_numpy(numpy["state"]["key"].astype(np.int64)),
        "numpy_position": torch.tensor([int(numpy["state"]["pos"]), int(numpy["has_gauss"])]),
        "numpy_gauss": torch.tensor([float(numpy["gauss"])], dtype=torch.float64),
    }
    return state | ({"cuda": torch.cuda.get_rng_state()} if torch.cuda.is_available() else {})


def set_random_state(state: Mapping[str, Tensor]) -> None:
    """Restore the state of every global generator.

    Raises:
        LookupError: The state of a generator is missing.
        ValueError: A state is not one of this generator.
    """
    try:
        torch.set_rng_state(state["torch"])
    except RuntimeError as error:
        raise ValueError(f"torch: {error}") from error
    gauss = state["python_gauss"].tolist()
    random.setstate((3, tuple(state["python"].tolist()), gauss[0] if gauss else None))
    position, has_gauss = state["numpy_position"].tolist()
    key = state["numpy"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", key, position, has_gauss, float(state["numpy_gauss"])))
    if "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"])
