"""Loading of `torch.save` files as data alone, so that writers to the bucket cannot run code here.

A pickle is a program. `torch.load(weights_only=True)` runs only the part of it that builds tensors, numbers,
strings and containers. Each file is verified against its manifest before it is loaded, but whoever can forge
a file can forge the manifest too.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from llava_av.checkpoints import CheckpointError
from llava_av.checkpoints.manifest import ADVICE
from llava_av.processes import set_variables

__all__ = ["DataOnlyFiles", "load_data", "loading_from", "require_safetensors"]

# For loads by DeepSpeed that bypass its checkpoint engine; the second variable would contradict the first.
_FORCED = {"TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "0"}
# Errors that the use of a file with another structure raises.
_MISFIT = (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError)
# PyTorch raises RuntimeError both for damaged files and where the machine fails, which is no fault of a file.
_MACHINE_ERRORS = (torch.OutOfMemoryError, torch.AcceleratorError)
_CPU_OUT_OF_MEMORY = "DefaultCPUAllocator"
_MAX_REASON_LENGTH = 200


class _NotData(Exception):
    """A file that holds more than data."""


def load_data(path: Path, location: Any = "cpu", classes: Sequence[type] = ()) -> Any:
    """Load a file of tensors and plain values.

    Args:
        path: File that `torch.save` wrote.
        location: `map_location` of `torch.load`.
        classes: Further classes whose instances the file may hold; their constructors must be harmless.

    Raises:
        _NotData: The file holds or calls something else; `loading_from` turns this into one line.
        RuntimeError: Memory is exhausted, or the device failed.
    """
    try:
        with torch.serialization.safe_globals([*classes, (_member, "builtins.getattr")]):
            return torch.load(path, map_location=location, weights_only=True)
    except (UnpicklingError, EOFError, RuntimeError, *_MISFIT) as error:
        if isinstance(error, _MACHINE_ERRORS) or _CPU_OUT_OF_MEMORY in str(error):
            raise
        raise _NotData(f"file {path.name} does not hold data alone ({_reason(error)})") from error


def require_safetensors(path: Path) -> None:
    """Require that a file is one of safetensors, which can hold nothing but tensors and text.

    Raises:
        _NotData: It is not; `loading_from` turns this into one line.
    """
    if not path.is_file():
        raise _NotData(f"{path.name} is not a file")
    try:
        with safe_open(path, "pt"):
            pass
    except SafetensorError as error:
        raise _NotData(f"file {path.name} does not hold data alone ({_reason(error)})") from error


def _member(kind: Any, name: Any) -> Enum:
    """Return a member of an enumeration, which Python before 3.11.4 pickles as a call of `getattr`."""
    if not (isinstance(kind, type) and issubclass(kind, Enum) and isinstance(name, str)):
        raise UnpicklingError(f"getattr of {kind!r}, which is not an enumeration")
    return kind[name]


@contextlib.contextmanager
def loading_from(uri: str) -> Iterator[None]:
    """Turn the errors of loading the files of a checkpoint into one line.

    Raises:
        CheckpointError: A file holds code, or does not have the structure of this run's checkpoints.
    """
    try:
        with set_variables(_FORCED):
            yield
    except _NotData as error:
        raise CheckpointError(f"checkpoint {uri}: {error}, so it was not loaded: {ADVICE}") from error
    except _MISFIT as error:
        raise CheckpointError(
            f"checkpoint {uri} does not hold the state of this run ({_reason(error)}): {ADVICE}"
        ) from error


class DataOnlyFiles:
    """Wrapper of DeepSpeed's checkpoint engine that runs no code from the files that it loads."""

    def __init__(self, engine: Any, classes: Sequence[type]) -> None:
        """Wrap an engine whose files may hold instances of `classes`."""
        self._engine = engine
        self._classes = classes

    def __getattr__(self, name: str) -> Any:
        """Return any other attribute of the engine."""
        return getattr(self._engine, name)

    def load(self, path: str, map_location: str | Callable[..., Any] | None = None) -> Any:
        """Load a file; see `load_data`."""
        return load_data(Path(path), map_location, self._classes)


def _reason(error: Exception) -> str:
    # PyTorch wraps the error that it found in advice for developers.
    found = error.__context__ if isinstance(error, UnpicklingError) and error.__context__ else error
    said = str(found).strip().splitlines()
    return f"{type(error).__name__}: {said[0] if said else 'nothing in it'}"[:_MAX_REASON_LENGTH]
