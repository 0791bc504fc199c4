"""Imports of large libraries without the garbage collector."""

import contextlib
import gc
from collections.abc import Iterator

__all__ = ["uncollected_imports"]


@contextlib.contextmanager
def uncollected_imports() -> Iterator[None]:
    """Pause the garbage collector, and exempt all objects that exist at the end of the block from it.

    Importing PyTorch, transformers and DeepSpeed creates a million objects that live as long as the process.
    Collections during the imports free nothing and take a fifth of their CPU time; later ones no longer
    traverse these objects.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if enabled:
            gc.enable()
