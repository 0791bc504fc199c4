"""Weights that are read tensor by tensor, after an engine has decided which process holds which rows.

A model of seven billion parameters takes 30 GB in float32. If each of eight processes builds it in memory,
the node needs 240 GB before any of it reaches a GPU. Here the parameters start on the meta device, where they
have shapes and no memory. The engine then reads its rows of one tensor after the other from the safetensors
files, so all processes together hold the weights once.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

from llava_av.model.files.folder_checks import weight_files

__all__ = ["DeferredWeights", "deferred_weights", "parameters_on_meta"]

_BASE_LAYER = ".base_layer"
_MAGNITUDE = ".lora_magnitude_vector."


class DeferredWeights:
    """Weights of a model by name: those of its base model in files, and those of a fresh adapter computed."""

    def __init__(self, files: Mapping[str, Path], fresh: Callable[[str, torch.Size], Tensor | None]) -> None:
        """Keep the names of weights.

        Args:
            files: File of each weight by its name in the base model.
            fresh: Returns a matrix of an adapter by name and shape; None for any other weight.
        """
        self._files = files
        self._fresh = fresh

    def read(self, name: str, shape: torch.Size, rows: slice = slice(None)) -> Tensor:
        """Return rows of a weight in float32.

        Args:
            name: Name in the model, which may have an adapter.
            shape: Shape of the whole weight.
            rows: Indices along the first dimension, without a step.
        """
        fresh = self._fresh(name, shape)
        if fresh is not None:
            part: Tensor = fresh[rows]
            return part.clone()
        layer, is_magnitude, _ = name.partition(_MAGNITUDE)
        if is_magnitude:
            norms: Tensor = torch.linalg.norm(self._rows(f"{layer}.weight", rows), dim=1)
            return norms
        return self._rows(name.replace(_BASE_LAYER, ""), rows)

    def _rows(self, name: str, rows: slice) -> Tensor:
        # Opened for each weight, because the pages of a mapped file that were read stay in memory.
        with safe_open(self._files[name], "pt") as file:
            part = file.get_slice(name)
            tensor: Tensor = part[rows] if part.get_shape() else file.get_tensor(name)
            return tensor.to(torch.float32, copy=True)


def deferred_weights(
    folder: Path, model: nn.Module, fresh: Callable[[str, torch.Size], Tensor | None]
) -> DeferredWeights | None:
    """Return the weights of a folder for a model; None if transformers must convert them first.

    Args:
        folder: Folder of the base model, with safetensors.
        model: The base model, on the meta device.
        fresh: See `DeferredWeights`.
    """
    files, shapes = {}, {}
    for path in weight_files(folder):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118
                files[name], shapes[name] = path, list(file.get_slice(name).get_shape())
    every = model.state_dict(keep_vars=True)
    # Files have the first name of tied weights, or all of their names.
    first = {id(tensor): name for name, tensor in reversed(every.items())}
    tied = every.keys() - set(first.values())
    expected = {name: list(tensor.shape) for name, tensor in every.items() if name not in tied}
    found = {name: shape for name, shape in shapes.items() if name not in tied}
    return DeferredWeights(files, fresh) if found == expected else None


@contextlib.contextmanager
def parameters_on_meta() -> Iterator[None]:
    """Build modules whose parameters are on the meta device, and whose buffers have their values."""
    register = nn.Module.register_parameter

    def register_on_meta(module: nn.Module, name: str, param: nn.Parameter | None) -> None:
        if param is not None and not param.is_meta:
            param = nn.Parameter(param.to("meta"), param.requires_grad)
        register(module, name, param)

    nn.Module.register_parameter = register_on_meta  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]
