"""Copies to a device, and attention masks, that do not wait for the device.

To build an attention mask, transformers reads two tensors: the padding mask, as rows without padding need no
mask, and the positions, as rows with a single sample need none either. On a GPU each read waits for all work
before. The functions that read are replaced for the time of one call, because transformers takes no argument
for it. All other decisions remain those of transformers.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from transformers import masking_utils

__all__ = ["known_masks", "on_device"]

_OF_PADDING = ("_ignore_causal_mask_sdpa", "_ignore_bidirectional_mask_sdpa")
_OF_SEQUENCES = "find_packed_sequence_indices"


@contextlib.contextmanager
def known_masks(*, sequences: Tensor | None, has_padding: bool, device: torch.device) -> Iterator[None]:
    """Build masks in the block from values of the host; only one thread may be in such a block.

    Args:
        sequences: Number of each token's sample in its row; None if each row has a single one.
        has_padding: True if padding masks exclude a position.
        device: Device of the masks.
    """
    saved = {name: getattr(masking_utils, name) for name in (*_OF_PADDING, _OF_SEQUENCES)}

    def needs_none(name: str) -> Any:
        def decide(padding_mask: Tensor | None, *arguments: Any, **options: Any) -> Any:
            is_padded = has_padding and padding_mask is not None
            return False if is_padded else saved[name](None, *arguments, **options)

        return decide

    def known_sequences(_: Tensor) -> Tensor | None:
        return None if sequences is None else on_device(sequences, device)

    for name in _OF_PADDING:
        setattr(masking_utils, name, needs_none(name))
    setattr(masking_utils, _OF_SEQUENCES, known_sequences)
    try:
        yield
    finally:
        for name, function in saved.items():
            setattr(masking_utils, name, function)


def on_device(host: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor of the host to a device, without waiting for the device."""
    source = host.pin_memory() if device.type == "cuda" else host
    return source.to(device, non_blocking=True)
