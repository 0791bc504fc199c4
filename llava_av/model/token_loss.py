"""Cross-entropy in chunks, so that memory for logits has a bound."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

__all__ = ["CHUNK", "token_losses"]

CHUNK = 4096
"""Positions whose logits are in memory at once. A vocabulary of 152,064 takes 2.5 GB for them in float32."""


def token_losses(
    head: nn.Module, hidden: Tensor, targets: Tensor, equal_calls: Callable[[int], int] | None = None
) -> Tensor:
    """Return the cross-entropy of each position in float32, `[positions]`.

    The logits of more than `CHUNK` positions are recomputed in the backward pass.

    Args:
        head: Maps hidden states to logits.
        hidden: Hidden states of the positions, `[positions, width]`.
        targets: Token ID at each position, `[positions]`.
        equal_calls: Maps the calls of the head that this process needs to the calls that all processes make;
            None if each process may make its own number.
    """
    chunks = max(1, -(-len(targets) // CHUNK))
    calls = chunks if equal_calls is None else equal_calls(chunks)
    if calls == 1:
        return _losses(head, hidden, targets)
    # Further calls, without positions, follow where other processes have more chunks.
    ends = [slice(start * CHUNK, (start + 1) * CHUNK) for start in range(calls)]
    parts = [checkpoint(_losses, head, hidden[end], targets[end], use_reentrant=False) for end in ends]
    return torch.cat(parts)


def _losses(head: nn.Module, hidden: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.cross_entropy(head(hidden).float(), targets, reduction="none")
