"""Which samples of a user's own dataset are held out."""

import hashlib
from collections.abc import Sequence
from typing import Literal

from llava_av.datasets.schema import Sample
from llava_av.errors import UserError

__all__ = ["Split", "SplitError", "split_samples"]

Split = Literal["train", "held_out"]


class SplitError(UserError):
    """A dataset too small to hold a sample out."""


def split_samples(samples: Sequence[Sample], held_out_share: float) -> dict[Split, tuple[Sample, ...]]:
    """Holds samples out by the hash of their id alone.

    A sample keeps its side when others come or go, whatever their order. Only where the hash would leave a
    side empty does the sample nearest to the border change sides.

    Args:
        samples: at least two, with distinct ids.
        held_out_share: expected share of samples held out, between 0 and 1.

    Returns:
        The splits, neither of them empty, each in the order of `samples`.

    Raises:
        SplitError: fewer than two samples.
    """
    if len(samples) < 2:
        raise SplitError(
            f"a dataset needs a sample to train on and one to hold out, this one has {len(samples)} usable"
        )
    places = {sample.id: _place(sample.id) for sample in samples}
    held_out = {name for name, place in places.items() if place < held_out_share}
    if not held_out:
        held_out = {min(places, key=lambda name: (places[name], name))}
    elif len(held_out) == len(places):
        held_out.remove(max(places, key=lambda name: (places[name], name)))
    return {
        "train": tuple(sample for sample in samples if sample.id not in held_out),
        "held_out": tuple(sample for sample in samples if sample.id in held_out),
    }


def _place(name: str) -> float:
    """A place in 0 to 1 that follows from the id."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64
