"""Errors of loading the files of a checkpoint, as one line.

The files are safetensors and JSON, which can hold nothing but data, so writers to the bucket cannot run code
here. Each file is verified against its manifest before it is loaded, but whoever can forge a file can forge
the manifest too.
"""

import contextlib
from collections.abc import Iterator

from safetensors import SafetensorError

from llava_av.checkpoints import CheckpointError
from llava_av.checkpoints.checkpoint_manifest import ADVICE

__all__ = ["loading_from"]

# Errors that the use of a file with another structure raises.
_MISFIT = (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError)
_MAX_REASON_LENGTH = 200


@contextlib.contextmanager
def loading_from(uri: str) -> Iterator[None]:
    """Turn the errors of loading the files of a checkpoint into one line.

    Raises:
        CheckpointError: A file is no safetensors file, or does not have the structure of this run's
            checkpoints.
    """
    try:
        yield
    except SafetensorError as error:
        raise CheckpointError(
            f"checkpoint {uri}: a file is not a safetensors file ({_reason(error)}), so it was not loaded: "
            f"{ADVICE}"
        ) from error
    except _MISFIT as error:
        raise CheckpointError(
            f"checkpoint {uri} does not hold the state of this run ({_reason(error)}): {ADVICE}"
        ) from error


def _reason(error: Exception) -> str:
    said = str(error).strip().splitlines()
    return f"{type(error).__name__}: {said[0] if said else 'nothing in it'}"[:_MAX_REASON_LENGTH]
