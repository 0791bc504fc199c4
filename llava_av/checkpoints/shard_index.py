"""Index of the shard files of a checkpoint: which elements of which parameter each file holds.

Each process writes the flat ranges of the trained parameters that it updates: the float32 `weight`, `exp_avg`
and `exp_avg_sq` of a range are tensors `KIND/PARAMETER` of one safetensors file. A process of any other
sharding finds in the index the files that it needs, and reads only its own elements of them.

The files are a function of state and sharding, so the digest of a checkpoint is a hash of their hashes
(`state_root`): each process hashes its own files, and nothing is gathered.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pydantic import Field, JsonValue, ValidationError

from llava_av.checkpoints.checkpoint_manifest import CheckpointFile, FileName
from llava_av.checkpoints.digest import state_digest
from llava_av.frozen import FrozenModel

__all__ = [
    "BUFFERS",
    "SHARD_INDEX",
    "Ranges",
    "ShardIndex",
    "parse_index",
    "random_name",
    "shard_name",
    "state_root",
]

_STATE = "state/"
SHARD_INDEX = f"{_STATE}index.json"
"""Name of the file with the `ShardIndex`."""
BUFFERS = f"{_STATE}buffers.safetensors"
"""Name of the file with the model's buffers."""

Ranges = dict[str, tuple[int, int]]
"""First element and number of elements by parameter."""


class ShardIndex(FrozenModel):
    """Content of the shard files of a checkpoint."""

    version: Literal[1] = 1
    """Version of this schema."""
    processes: int = Field(ge=1)
    """Number of processes that wrote the checkpoint."""
    updates: dict[str, float]
    """Number of updates of each trained parameter; a parameter without any has no moments."""
    frozen: dict[str, str]
    """Checksum of each parameter that is not trained, which the base model or the seed reproduces."""
    files: dict[FileName, dict[str, tuple[int, int]]]
    """`Ranges` of each file."""

    def covering(self, name: str, start: int, length: int) -> Iterator[tuple[str, int, int, int]]:
        """Yield the files that hold a range of a parameter.

        Yields:
            File, first element in the file's range, first element in the requested range, number of elements.

        Raises:
            ValueError: The files do not hold each element exactly once.
        """
        found = 0
        for file, first, count in self._by_parameter.get(name, ()):
            begin, end = max(start, first), min(start + length, first + count)
            if begin < end:
                found += end - begin
                yield file, begin - first, begin - start, end - begin
        if found != length:
            raise ValueError(
                f"parameter {name}: files hold {found} values for the {length} elements {start} to "
                f"{start + length - 1}"
            )

    @property
    def _by_parameter(self) -> Mapping[str, list[tuple[str, int, int]]]:
        cached: dict[str, Any] = self.__dict__
        if "_places" not in cached:
            places: dict[str, list[tuple[str, int, int]]] = defaultdict(list)
            for file, ranges in self.files.items():
                for name, (first, count) in ranges.items():
                    places[name].append((file, first, count))
            cached["_places"] = places
        found: Mapping[str, list[tuple[str, int, int]]] = cached["_places"]
        return found


def parse_index(data: bytes) -> ShardIndex:
    """Parse an index.

    Raises:
        ValueError: It is not an index of this schema; the text names the first problem.
    """
    try:
        return ShardIndex.model_validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise ValueError(f"{SHARD_INDEX} is damaged ({where}: {first['msg']})") from None


def shard_name(rank: int, number: int) -> str:
    """Return the name of a file with ranges of parameters that a process writes."""
    return f"{_STATE}rank-{rank:05d}-{number:04d}.safetensors"


def random_name(rank: int) -> str:
    """Return the name of the file with the state of a process's random number generators."""
    return f"{_STATE}random-{rank:05d}.safetensors"


def state_root(files: Mapping[str, CheckpointFile], data_position: Mapping[str, JsonValue]) -> str:
    """Return the digest of a checkpoint from the hashes of its files; `model/` is not part of the state."""
    hashes = {name: one.sha256 for name, one in files.items() if name.startswith(_STATE)}
    return state_digest({"files": hashes, "data_position": data_position})
