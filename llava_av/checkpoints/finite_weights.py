"""Search for NaN and infinity in weight files, without torch, which registration does not install.

The format is safetensors (https://huggingface.co/docs/safetensors): eight bytes with the length of a JSON
header, the header, then the tensors. A number is not finite if all bits of its exponent are set. `F8_E4M3`
has no infinity; its NaN has all bits set except the sign. numpy lacks some of these types, so bits are
compared.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypedDict

import numpy as np

from llava_av.checkpoints.checkpoint_manifest import CheckpointError

__all__ = ["first_non_finite"]

_BITS: Mapping[str, tuple[str, int]] = MappingProxyType(
    {
        "F64": ("<u8", 0x7FF0_0000_0000_0000),
        "F32": ("<u4", 0x7F80_0000),
        "C64": ("<u4", 0x7F80_0000),
        "F16": ("<u2", 0x7C00),
        "BF16": ("<u2", 0x7F80),
        "F8_E5M2": ("u1", 0x7C),
        "F8_E4M3": ("u1", 0x7F),
    }
)
_AT_ONCE = 1 << 22


class _Entry(TypedDict):
    """A tensor in the header of a safetensors file."""

    dtype: str
    data_offsets: tuple[int, int]
    """Its first byte and the end, counted from the end of the header."""


def first_non_finite(path: Path) -> str | None:
    """Return the name of a safetensors file's first weight with NaN or infinity; None if all are finite.

    Raises:
        CheckpointError: The file is not a safetensors file.
    """
    content = np.memmap(path, np.uint8, "r") if path.stat().st_size else np.empty(0, np.uint8)
    try:
        start = 8 + int.from_bytes(content[:8].tobytes(), "little")
        header: dict[str, _Entry] = json.loads(content[8:start].tobytes())
        for name, tensor in header.items():
            if name != "__metadata__" and tensor["dtype"] in _BITS:
                first, end = tensor["data_offsets"]
                if not _is_finite(content[start + first : start + end], *_BITS[tensor["dtype"]]):
                    return name
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path.name} is not a safetensors file ({error}): train again") from None
    return None


def _is_finite(content: Any, kind: str, exponent: int) -> bool:
    step = _AT_ONCE * np.dtype(kind).itemsize
    for at in range(0, len(content), step):
        # A copy: tensors in the file need not be aligned for their type.
        numbers = np.frombuffer(content[at : at + step].tobytes(), kind)
        if ((numbers & numbers.dtype.type(exponent)) == exponent).any():
            return False
    return True
