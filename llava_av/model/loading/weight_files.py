"""Weights read from a folder: every one that is needed, and none that is not."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig

from llava_av.errors import UserError

__all__ = [
    "ModelFilesError",
    "loaded",
    "pretrained",
    "reading_files",
    "require_matching",
    "require_none",
    "require_whole",
]

_NAMED_AT_MOST = 5
_LONGEST_REASON = 300


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


def pretrained(loader: Any, folder: Path | str, **options: Any) -> Any:
    """Read a part of a folder by transformers, without running its code, questions or downloads.

    Args:
        loader: a class with `from_pretrained`.
        folder: local Hugging Face folder.
        options: for `from_pretrained`.

    Raises:
        ModelFilesError: transformers cannot read it, for whatever reason.
    """
    try:
        return loader.from_pretrained(
            folder, **(options | {"trust_remote_code": False, "local_files_only": True})
        )
    except UserError:
        raise
    except Exception as error:  # files of any content lead to errors of any kind
        raise _unreadable(folder, error) from error


def require_matching(architecture: Any, config: Any, folder: Path | str) -> None:
    """Require that a folder's files can hold the weights that its config describes.

    transformers allocates what is missing before it names it, which may be a model of a default size.

    Args:
        architecture: class of the model.
        config: of the model.
        folder: of the weights.

    Raises:
        ModelFilesError: there are fewer bytes than weights, or the config describes no model.
    """
    build = getattr(architecture, "from_config", None) or architecture._from_config
    try:
        with torch.device("meta"):
            needed = sum(weight.numel() for weight in build(config).parameters())
    except Exception as error:  # a config of any content leads to errors of any kind
        raise _unreadable(folder, error) from error
    files = [path for path in Path(folder).iterdir() if path.suffix in (".safetensors", ".bin")]
    held = sum(path.stat().st_size for path in files)
    if needed > held:
        raise ModelFilesError(
            f"{folder} has {held:,} bytes of weights, but config.json describes {needed:,} weights: they are "
            "of different models, or files are missing"
        )


def _unreadable(folder: Path | str, error: Exception) -> ModelFilesError:
    return ModelFilesError(
        f"{folder} cannot be read: {_reason(error)}; check its files, or download them again"
    )


def _reason(error: Exception) -> str:
    if isinstance(error, UnpicklingError):
        return "its pickled weights hold more than tensors, which may be code; use safetensors"
    text = " ".join(str(error).split())[:_LONGEST_REASON].rstrip(".")
    return text if isinstance(error, OSError | ValueError) else f"{type(error).__name__}: {text}"


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
    config = options.pop("config", None) or pretrained(AutoConfig, folder)
    require_matching(architecture, config, folder)
    model, info = pretrained(
        architecture,
        folder,
        config=config,
        dtype="auto",
        output_loading_info=True,
        ignore_mismatched_sizes=True,
        **options,
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
