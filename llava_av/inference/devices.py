"""Device on which a model runs, and type of its weights."""

import torch

from llava_av.errors import UserError

__all__ = ["DTYPES", "choose_device", "choose_dtype", "require_working"]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""Types of weights by name."""


def choose_device(name: str) -> torch.device:
    """Return the device with this name; `auto` is the first available of CUDA, MPS and the CPU.

    Raises:
        UserError: The device is not available.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(kind for kind, is_available in available.items() if is_available))
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or not available.get(device.type) or (device.index or 0) >= _count(device.type):
        known = ", ".join(kind for kind, is_available in available.items() if is_available)
        raise UserError(f"--device {name} is not available; use one of auto, {known}")
    return device


def choose_dtype(name: str) -> torch.dtype | None:
    """Return the type of weights with this name; None for `auto`, the type of the model's training."""
    return None if name == "auto" else DTYPES[name]


def require_working(device: torch.device) -> None:
    """Check that a device still computes; after some errors, a process can never use its GPU again.

    Raises:
        RuntimeError: The device has failed.
    """
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def _count(kind: str) -> int:
    return torch.cuda.device_count() if kind == "cuda" else 1
