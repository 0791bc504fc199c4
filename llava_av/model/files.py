"""Weights read from a folder: every one that is needed, and none that is not."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from llava_av.errors import UserError

__all__ = ["ModelFilesError", "loaded", "reading_files", "require_none", "require_whole"]

_NAMED_AT_MOST = 5


class ModelFilesError(UserError, ValueError):
    """A model's folder that cannot be used as it is."""


@contextlib.contextmanager
def reading_files(what: str) -> Iterator[None]:
    """Turns what transformers says of files that it cannot read into one line.

    Raises:
        ModelFilesError: the block cannot read `what`.
    """
    try:
        yield
    except UserError:
        raise
    except (OSError, ValueError, SafetensorError) as error:
        raise ModelFilesError(f"{what} cannot be read: {str(error).strip().splitlines()[0]}") from error


def loaded(architecture: Any, folder: Path, *, beside: tuple[str, ...] = (), **options: Any) -> Any:
    """A model of transformers with the weights of a folder, in the folder's own dtype.

    Args:
        architecture: its class.
        folder: config and weights.
        beside: what the names of weights begin with that the folder may hold for other purposes.
        options: for `from_pretrained`.

    Raises:
        ModelFilesError: weights that are missing, left over or of another size, by name.
    """
    model, info = architecture.from_pretrained(
        folder, dtype="auto", output_loading_info=True, ignore_mismatched_sizes=True, **options
    )
    others = [name for name in info["unexpected_keys"] if not name.startswith(beside)]
    require_whole(folder, {**info, "unexpected_keys": others})
    return model


def require_whole(folder: Path | str, info: Mapping[str, Any]) -> None:
    """Require that a folder had the weights of a model, all of them and no others.

    Args:
        folder: for messages.
        info: what transformers' `from_pretrained` says with `output_loading_info`.

    Raises:
        ModelFilesError: weights that are missing, left over or of another size, by name.
    """
    require_none("missing in", folder, info["missing_keys"])
    require_none("left over in", folder, info["unexpected_keys"])
    wrong = (f"{name} {[*found]}, not {[*wanted]}" for name, found, wanted in info["mismatched_keys"])
    require_none("of another size in", folder, wrong)


def require_none(problem: str, folder: Path | str, names: Iterable[str]) -> None:
    """Require that there are no such weights.

    Raises:
        ModelFilesError: with their names, of many the first.
    """
    found = sorted(names)
    if found:
        shown = ", ".join(found[:_NAMED_AT_MOST])
        more = f" and {len(found) - _NAMED_AT_MOST} more" if len(found) > _NAMED_AT_MOST else ""
        raise ModelFilesError(f"weights are {problem} {folder}: {shown}{more}")
