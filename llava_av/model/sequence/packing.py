"""Packing: several samples in one row that do not attend to each other."""

import os
import shutil
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.masking_utils import find_packed_sequence_indices
from transformers.utils.import_utils import is_flash_attn_2_available


def pack_rows(lengths: Sequence[int], limit: int) -> list[list[int]]:
    """Assign samples to rows: the longest first, each to the first row with room for it.

    Args:
        lengths: Tokens of each sample.
        limit: Maximum tokens of a row.

    Returns:
        Indices of the samples of each row.

    Raises:
        ValueError: A sample is longer than a row; names both lengths.
    """
    rows: list[list[int]] = []
    room: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        length = lengths[index]
        if length > limit:
            raise ValueError(
                f"a sample of {length} tokens does not fit packed rows of {limit}: raise "
                "training.pack_length, or set model.max_tokens and model.over_limit"
            )
        row = next((number for number, free in enumerate(room) if free >= length), len(rows))
        if row == len(rows):
            rows.append([])
            room.append(limit)
        rows[row].append(index)
        room[row] -= length
    return rows


def packed_attention(language_model: PreTrainedModel, device: torch.device, precision: str) -> str:
    """Return the name of the cheapest attention for packed rows, for `set_attn_implementation`.

    FlashAttention and flex attention skip attention between samples; any other computes and masks it.
    FlashAttention takes 16-bit weights only; flex attention is compiled by Triton and has no backward on a
    CPU.

    Args:
        language_model: Model whose support and current attention are read.
        device: Device of the training.
        precision: Numbers that the model computes with, `bf16` or `fp32`.
    """
    if device.type == "cuda":
        if language_model._supports_flash_attn and precision == "bf16" and is_flash_attn_2_available():
            return "flash_attention_2"
        compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
        if language_model._supports_flex_attn and compiler:
            return "flex_attention"
    return str(language_model.config._attn_implementation)


def sequence_bounds(positions: Tensor) -> dict[str, Any]:
    """Return the arguments of FlashAttention for samples in one row.

    Without them, transformers finds the bounds again in every layer, and waits for the device each time.

    Args:
        positions: `[1, length]`, restarting at 0 with each sample; on the CPU.
    """
    starts = (positions[0] == 0).nonzero()[:, 0]
    bounds = torch.nn.functional.pad(starts, (0, 1), value=positions.shape[1]).int()
    longest = int(bounds.diff().max())
    return {
        "cu_seq_lens_q": bounds,
        "cu_seq_lens_k": bounds,
        "max_length_q": longest,
        "max_length_k": longest,
    }


def packed_sequences(positions: Tensor) -> Tensor | None:
    """Return the number of each token's sample in its row, `[rows, length]`; None if each row has one.

    Args:
        positions: `[rows, length]`, restarting at 0 with each sample; on the CPU.
    """
    found: Tensor | None = find_packed_sequence_indices(positions)
    return found


def restarted_positions(sample_of: Tensor) -> Tensor:
    """Return positions that restart at 0 with each sample.

    transformers derives the sample boundaries from them and builds what the attention needs: a block-diagonal
    mask (SDPA, eager, flex attention), or the boundaries in one row (FlashAttention).

    Args:
        sample_of: `[rows, length]`, the number of each token's sample; equal neighbours are one sample.

    Returns:
        `[rows, length]`.
    """
    places = torch.arange(sample_of.shape[1], device=sample_of.device).expand_as(sample_of)
    is_start = torch.ones_like(sample_of, dtype=torch.bool)
    is_start[:, 1:] = sample_of[:, 1:] != sample_of[:, :-1]
    return places - torch.where(is_start, places, 0).cummax(1).values
