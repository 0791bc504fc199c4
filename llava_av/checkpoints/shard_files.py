"""Writing, hashing and reading of tensors in safetensors files (https://huggingface.co/docs/safetensors).

The library's own writer copies every tensor and keeps Python's lock while it writes, which would block a
training that continues meanwhile. The format is simple (eight bytes with the length of a JSON header, the
header, then the tensors), so this module writes it: file and hash in one pass, in threads.
"""

import contextlib
import hashlib
import json
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from llava_av.checkpoints.checkpoint_manifest import CheckpointFile
from llava_av.checkpoints.shard_index import ShardIndex

__all__ = ["ShardReader", "describe_tensors", "read_tensors", "tensor_name", "write_tensors"]

_DTYPES: Mapping[torch.dtype, str] = MappingProxyType(
    {
        torch.float64: "F64",
        torch.float32: "F32",
        torch.float16: "F16",
        torch.bfloat16: "BF16",
        torch.int64: "I64",
        torch.int32: "I32",
        torch.int16: "I16",
        torch.int8: "I8",
        torch.uint8: "U8",
        torch.bool: "BOOL",
    }
)
_ALIGNMENT = 8


def tensor_name(kind: str, parameter: str) -> str:
    """Return the name in a shard file of a parameter's `weight`, `exp_avg` or `exp_avg_sq`."""
    return f"{kind}/{parameter}"


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> CheckpointFile:
    """Write a safetensors file, and return its hash and size."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        return _consume(tensors, file)


def describe_tensors(tensors: Mapping[str, Tensor]) -> CheckpointFile:
    """Return the hash and size of the file that `write_tensors` would write."""
    return _consume(tensors, None)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read all tensors of a file into host memory."""
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is not a mapping


class ShardReader:
    """Reader of ranges of parameters in the shard files of a checkpoint."""

    def __init__(self, folder: Path, index: ShardIndex) -> None:
        """Keep folder and index.

        Args:
            folder: Folder with the files by their names in the checkpoint; it may lack those not needed.
            index: Index of the checkpoint.
        """
        self._folder = folder
        self._index = index
        self._open = contextlib.ExitStack()
        self._files: dict[str, Any] = {}

    def __enter__(self) -> "ShardReader":
        """Keep files open until the block ends."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close all files."""
        self._files.clear()
        self._open.close()

    def read_into(self, target: Tensor, kind: str, name: str, start: int) -> None:
        """Fill a one-dimensional tensor with the elements of a flattened parameter from `start` on.

        Args:
            target: Tensor of the kind's dtype to fill; `[elements]`.
            kind: `weight`, `exp_avg` or `exp_avg_sq`.
            name: Name of the parameter.
            start: First element to read.

        Raises:
            ValueError: The files do not hold each of these elements exactly once, or in another type.
        """
        for file, first, at, count in self._index.covering(name, start, target.numel()):
            found = self._file(file).get_slice(tensor_name(kind, name))[first : first + count]
            if found.shape != (count,) or found.dtype != target.dtype:
                raise ValueError(
                    f"{tensor_name(kind, name)} in {file} is {found.dtype} {list(found.shape)}, not "
                    f"{target.dtype} [{count}]"
                )
            target[at : at + count].copy_(found)

    def _file(self, name: str) -> Any:
        if name not in self._files:
            self._files[name] = self._open.enter_context(safe_open(self._folder / name, "pt"))
        return self._files[name]


def _consume(tensors: Mapping[str, Tensor], file: Any) -> CheckpointFile:
    sha256, size = hashlib.sha256(), 0
    for part in _parts(tensors):
        sha256.update(part)
        size += len(part)
        if file is not None:
            file.write(part)
    return CheckpointFile(sha256=sha256.hexdigest(), bytes=size)


def _parts(tensors: Mapping[str, Tensor]) -> Iterator[Any]:
    """Yield the header of a file and the bytes of each tensor, those with large elements first."""
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))
    header, end = {}, 0
    for name, tensor in ordered:
        begin, end = end, end + tensor.nbytes
        about = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
        header[name] = about
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    yield struct.pack("<Q", len(text)) + text
    for _, tensor in ordered:
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        # Through bytes: numpy has no bfloat16.
        yield flat.view(torch.uint8).numpy().data
