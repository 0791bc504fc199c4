"""Several samples in one row, none of which sees another."""

import os
import shutil
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.utils.import_utils import is_flash_attn_2_available

__all__ = ["pack_rows", "packed_attention", "restarted_positions"]


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
                f"a sample of {length} tokens, but packed rows of {limit}: raise training.pack_length, or "
                "set model.max_tokens and model.over_limit"
            )
        row = next((number for number, free in enumerate(room) if free >= length), len(rows))
        if row == len(rows):
            rows.append([])
            room.append(limit)
        rows[row].append(index)
        room[row] -= length
    return rows


def packed_attention(language_model: PreTrainedModel, device: torch.device) -> str:
    """The attention that computes least for packed rows, as `set_attn_implementation` takes it.

    FlashAttention and flex attention leave out what lies between samples; any other computes and masks it.
    The first takes weights of 16 bits alone; the second is compiled by Triton, and on a CPU has no backward.

    Args:
        language_model: says what it can have, and has what is kept where neither can be had.
        device: on which it will be trained.
    """
    if device.type == "cuda":
        short = language_model.dtype in (torch.bfloat16, torch.float16)
        if language_model._supports_flash_attn and short and is_flash_attn_2_available():
            return "flash_attention_2"
        compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
        if language_model._supports_flex_attn and compiler:
            return "flex_attention"
    return str(language_model.config._attn_implementation)


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
