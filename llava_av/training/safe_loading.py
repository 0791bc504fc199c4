"""Loading what `torch.save` wrote as data alone: whoever may write to the bucket runs no code here.

Pickle is a program, and `torch.load(weights_only=True)` runs only the part of it that builds tensors,
numbers, strings and containers. Files have been verified against their manifest before they come here, but
whoever can forge a file can forge the manifest, too.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from llava_av.checkpoints import CheckpointError
from llava_av.checkpoints.manifest import ADVICE
from llava_av.processes import set_variables

__all__ = ["DataOnlyFiles", "load_data", "loading_from"]

# For loads of DeepSpeed's that bypass its checkpoint engine; the second would contradict the first.
_FORCED = {"TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "0"}
# What a file of another structure leads to where it is used.
_MISFIT = (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError)
_LONGEST = 200


class _NotData(Exception):
    """A file that holds something other than data."""


def load_data(path: Path, location: Any = "cpu", classes: Sequence[type] = ()) -> Any:
    """Load a file of tensors and plain values.

    Args:
        path: File that `torch.save` wrote.
        location: `map_location` of `torch.load`.
        classes: Further classes that it may hold instances of; their constructors must be harmless.

    Raises:
        _NotData: The file holds or calls something else; `loading_from` makes one line of it.
    """
    try:
        with torch.serialization.safe_globals([*classes, (_member, "builtins.getattr")]):
            return torch.load(path, map_location=location, weights_only=True)
    except (UnpicklingError, EOFError, RuntimeError, *_MISFIT) as error:
        raise _NotData(f"file {path.name} does not hold data alone ({_reason(error)})") from error


def _member(kind: Any, name: Any) -> Enum:
    """Return a member of an enumeration, which Python before 3.11.4 pickles as a call of `getattr`."""
    if not (isinstance(kind, type) and issubclass(kind, Enum) and isinstance(name, str)):
        raise UnpicklingError(f"getattr of {kind!r}, which is no enumeration")
    return kind[name]


@contextlib.contextmanager
def loading_from(uri: str) -> Iterator[None]:
    """Make one line of what goes wrong while the files of a checkpoint are loaded.

    Raises:
        CheckpointError: One of them holds code, or not what this run's checkpoints hold.
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
    """DeepSpeed's checkpoint engine, except that loading runs no code from a file."""

    def __init__(self, engine: Any, classes: Sequence[type]) -> None:
        """Wrap an engine; its files may hold instances of `classes`."""
        self._engine = engine
        self._classes = classes

    def __getattr__(self, name: str) -> Any:
        """Give everything else of the engine."""
        return getattr(self._engine, name)

    def load(self, path: str, map_location: str | Callable[..., Any] | None = None) -> Any:
        """Load a file; see `load_data`."""
        return load_data(Path(path), map_location, self._classes)


def _reason(error: Exception) -> str:
    # PyTorch wraps what it found into advice for developers.
    found = error.__context__ if isinstance(error, UnpicklingError) and error.__context__ else error
    said = str(found).strip().splitlines()
    return f"{type(error).__name__}: {said[0] if said else 'nothing in it'}"[:_LONGEST]
