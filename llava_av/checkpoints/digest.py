"""Digest of the complete state of a training run, independent of container, device and memory layout.

Each value enters SHA-256 as a tag, a length and its bytes, so no two structures share an encoding. Tensors
and arrays contribute their dtype, shape and elements in row-major little-endian order.
"""

import hashlib
import struct
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["state_digest"]

_ARRAY_KINDS = "biufc"  # bool, signed, unsigned, float and complex have no bytes besides their elements,
_PADDED = "gG"  # except long doubles, which contain undefined padding


def state_digest(parts: Mapping[str, object]) -> str:
    """Return the SHA-256 of a nested state, in hex.

    Mappings (with strings or integers as keys), lists and tuples nest; leaves are torch tensors, numpy arrays
    and scalars, numbers, strings, bytes and None. Equal content gives an equal digest: the order of a
    mapping, the device, contiguity and storage of a tensor, list or tuple, tensor or array make no
    difference. Every element, dtype, shape, key and sequence length does; NaN and minus zero are compared by
    their bits.

    Raises:
        TypeError: A value or key has another type; named by its path.
    """
    sink = hashlib.sha256()
    _feed(sink, parts, "state")
    return sink.hexdigest()


def _feed(sink: "hashlib._Hash", value: Any, path: str) -> None:
    array = _as_array(value, path)
    if array is not None:
        dtype, shape, elements = array
        _tagged(sink, b"A", f"{dtype}{list(shape)}".encode())
        sink.update(elements.data)
    elif isinstance(value, Mapping):
        keyed = sorted((_key(key, path), key) for key in value)
        _tagged(sink, b"M", str(len(keyed)).encode())
        for encoded, key in keyed:
            _tagged(sink, b"K", encoded)
            _feed(sink, value[key], f"{path}[{key!r}]")
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray | memoryview):
        _tagged(sink, b"L", str(len(value)).encode())
        for index, item in enumerate(value):
            _feed(sink, item, f"{path}[{index}]")
    else:
        _tagged(sink, *_leaf(value, path))


def _leaf(value: Any, path: str) -> tuple[bytes, bytes]:
    match value:
        case None:
            return b"N", b""
        case bool():
            return b"B", b"1" if value else b"0"
        case int():
            return b"I", str(int(value)).encode()
        case float():
            return b"F", struct.pack("<d", value)
        case str():
            return b"S", value.encode("utf-8", "surrogatepass")
        case bytes() | bytearray():
            return b"Y", bytes(value)
        case _:
            raise TypeError(f"{path}: no digest for a value of type {_type_name(value)}")


def _key(key: Any, path: str) -> bytes:
    if isinstance(key, bool) or not isinstance(key, str | int):
        raise TypeError(f"{path}: no digest for a key of type {_type_name(key)}: {key!r}")
    return b"".join(_leaf(key, path))


def _as_array(value: Any, path: str) -> tuple[str, tuple[int, ...], npt.NDArray[Any]] | None:
    """Return dtype name, shape and contiguous elements; None if the value is neither array nor tensor."""
    torch = sys.modules.get("torch")  # not imported here: unless it is loaded, no value can be a tensor
    if torch is not None and isinstance(value, torch.Tensor):
        return _tensor_elements(torch, value, path)
    if not isinstance(value, np.ndarray | np.generic):
        return None
    array = np.asarray(value)
    if array.dtype.kind not in _ARRAY_KINDS or array.dtype.char in _PADDED:
        raise TypeError(f"{path}: no digest for an array of dtype {array.dtype}")
    little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    return array.dtype.name, array.shape, little.reshape(-1)


def _tensor_elements(torch: Any, tensor: Any, path: str) -> tuple[str, tuple[int, ...], npt.NDArray[Any]]:
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
        raise TypeError(f"{path}: no digest for a {tensor.layout} tensor of dtype {tensor.dtype}")
    name = str(tensor.dtype).removeprefix("torch.")
    flat = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous().reshape(-1)
    # Through bytes: numpy has no bfloat16 or float8.
    return name, tuple(tensor.shape), flat.view(torch.uint8).numpy()


def _tagged(sink: "hashlib._Hash", tag: bytes, payload: bytes) -> None:
    sink.update(tag + struct.pack("<Q", len(payload)))
    sink.update(payload)


def _type_name(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"
