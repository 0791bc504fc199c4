"""Device on which a model runs."""

import torch

from llava_av.errors import UserError

__all__ = ["choose_device", "require_working"]


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


def require_working(device: torch.device) -> None:
    """Check that a device still computes; after some errors, a process can never use its GPU again.

    Raises:
        RuntimeError: The device has failed.
    """
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def _count(kind: str) -> int:
    return torch.cuda.device_count() if kind == "cuda" else 1
