"""Several samples in one row, none of which sees another."""

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["pack_rows", "restarted_positions"]


def pack_rows(lengths: Sequence[int], limit: int) -> list[list[int]]:
    """Which samples share a row: the longest first, each into the first row that has room for it.

    Args:
        lengths: tokens of each sample.
        limit: tokens of a row at most.

    Returns:
        Indices of each row's samples.

    Raises:
        ValueError: a sample longer than a row, with both.
    """
    rows: list[list[int]] = []
    room: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        length = lengths[index]
        if length > limit:
            raise ValueError(
                f"a sample of {length} tokens, but packed rows of {limit}: raise training.packing_tokens, or "
                "set model.max_tokens and model.over_limit"
            )
        row = next((number for number, free in enumerate(room) if free >= length), len(rows))
        if row == len(rows):
            rows.append([])
            room.append(limit)
        rows[row].append(index)
        room[row] -= length
    return rows


def restarted_positions(sample_of: Tensor) -> Tensor:
    """Positions that begin at 0 with each sample.

    Transformers tells by them which tokens belong together, and makes what each attention needs: a
    block-diagonal mask (SDPA, eager, flex attention), or the boundaries (FlashAttention, one row).

    Args:
        sample_of: `[rows, length]`, the number of each token's sample; neighbours of one number are a sample.

    Returns:
        `[rows, length]`.
    """
    places = torch.arange(sample_of.shape[1], device=sample_of.device).expand_as(sample_of)
    begins = torch.ones_like(sample_of, dtype=torch.bool)
    begins[:, 1:] = sample_of[:, 1:] != sample_of[:, :-1]
    return places - torch.where(begins, places, 0).cummax(1).values
