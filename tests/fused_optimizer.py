"""PyTorch's fused AdamW on the CPU, in place of the one that training takes there."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

__all__ = ["fused_adamw"]


@contextlib.contextmanager
def fused_adamw() -> Iterator[None]:
    """Let engines that are built in the block update as on a GPU."""
    plain = torch.optim.AdamW

    class FusedAdamW(plain):
        def __init__(self, params: Any, **options: Any) -> None:
            super().__init__(params, **options | {"fused": True})

    torch.optim.AdamW = FusedAdamW
    try:
        yield
    finally:
        torch.optim.AdamW = plain
