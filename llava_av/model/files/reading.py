"""Parts of a model read from a folder: without running code, and with exactly the weights that are needed."""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig

from llava_av.errors import UserError
from llava_av.plurals import listed

__all__ = [
    "ModelFilesError",
    "file_errors",
    "load_weights",
    "read_pretrained",
    "require_matching",
    "require_none",
    "require_whole",
]

_MAX_NAMED = 5
_MAX_REASON_CHARACTERS = 300


class ModelFilesError(UserError, ValueError):
    """A model's folder cannot be used as it is."""


@contextlib.contextmanager
def file_errors(name: str) -> Iterator[None]:
    """Turn errors of transformers about files that it cannot read into one line.

    Args:
        name: Name of the files in error messages, such as `the model of /models/a`.

    Raises:
        ModelFilesError: The block fails.
    """
    try:
        yield
    except UserError:
        raise
    except (OSError, ValueError, SafetensorError) as error:
        raise ModelFilesError(f"{name} cannot be read: {str(error).strip().splitlines()[0]}") from error


def read_pretrained(loader: Any, folder: Path | str, **options: Any) -> Any:
    """Read a part of a model's folder with transformers, without running its code, prompts or downloads.

    Args:
        loader: A class with `from_pretrained`.
        folder: Local Hugging Face folder.
        options: Arguments for `from_pretrained`.

    Raises:
        ModelFilesError: The files cannot be read by transformers.
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
    """Check that a folder's files are large enough for the weights that its config describes.

    transformers allocates missing weights before it names them, which may be a model of a default size.

    Args:
        architecture: Class of the model.
        config: Config of the model.
        folder: Folder with the weights.

    Raises:
        ModelFilesError: There are fewer bytes than weights, or the config does not describe a model.
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
            f"{folder} has {held:,} bytes of weights, but config.json describes {needed:,} weights: files "
            "are missing or belong to another model; download them again"
        )


def _unreadable(folder: Path | str, error: Exception) -> ModelFilesError:
    return ModelFilesError(
        f"{folder} cannot be read: {_reason(error)}; check its files, or download them again"
    )


def _reason(error: Exception) -> str:
    if isinstance(error, UnpicklingError):
        return "its pickled weights contain more than tensors, which may be code; use safetensors"
    text = " ".join(str(error).split())[:_MAX_REASON_CHARACTERS].rstrip(".")
    return text if isinstance(error, OSError | ValueError) else f"{type(error).__name__}: {text}"


def load_weights(
    architecture: Any, folder: Path, *, ignored_prefixes: tuple[str, ...] = (), **options: Any
) -> Any:
    """Load a model of transformers with the weights of a folder, in the folder's own dtype.

    Args:
        architecture: Class of the model.
        folder: Folder with config and weights.
        ignored_prefixes: Prefixes of weights that the folder may have for other purposes.
        options: Arguments for `from_pretrained`.

    Raises:
        ModelFilesError: Weights are missing, left over or differ in shape; names them.
    """
    config = options.pop("config", None) or read_pretrained(AutoConfig, folder)
    require_matching(architecture, config, folder)
    model, info = read_pretrained(
        architecture,
        folder,
        config=config,
        dtype="auto",
        output_loading_info=True,
        ignore_mismatched_sizes=True,
        **options,
    )
    require_whole(
        folder,
        missing=info["missing_keys"],
        left_over=[name for name in info["unexpected_keys"] if not name.startswith(ignored_prefixes)],
        mismatched=info["mismatched_keys"],
    )
    return model


def require_whole(
    folder: Path | str,
    *,
    missing: Iterable[str],
    left_over: Iterable[str],
    mismatched: Iterable[tuple[str, Sequence[int], Sequence[int]]],
) -> None:
    """Check that a folder had exactly the weights of a model.

    Args:
        folder: Folder for messages.
        missing: Weights of the model that the folder lacks.
        left_over: Weights of the folder that the model lacks.
        mismatched: Weights that differ in shape, with those of the folder and of the model.

    Raises:
        ModelFilesError: Weights are missing, left over or differ in shape; names them.
    """
    require_none("missing in", folder, missing)
    require_none("left over in", folder, left_over)
    wrong = (f"{name} {[*found]}, not {[*wanted]}" for name, found, wanted in mismatched)
    require_none("of another size in", folder, wrong)


def require_none(problem: str, folder: Path | str, names: Iterable[str]) -> None:
    """Check that there are no weights with a problem.

    Args:
        problem: Words before the folder in the message, such as `missing in`.
        folder: Folder for the message.
        names: Names of the weights.

    Raises:
        ModelFilesError: There are; names the first of them.
    """
    found = sorted(names)
    if found:
        raise ModelFilesError(f"weights are {problem} {folder}: {listed(found, _MAX_NAMED)}")
