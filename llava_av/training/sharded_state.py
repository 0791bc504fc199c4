"""State of a training as shard files: each process divides its ranges into files, and loads those of others.

Files hold at most `_FILE_BYTES`, and larger ranges are divided, so that several threads write, hash and
upload the state of one process.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, distributed

from llava_av.checkpoints.shard_files import ShardReader, read_tensors, tensor_name
from llava_av.checkpoints.shard_index import BUFFERS, Ranges, ShardIndex, random_name, shard_name
from llava_av.training.collective import CpuGroup
from llava_av.training.engines import Engine, Fragment, FrozenFragment

__all__ = ["ShardFile", "frozen_checksums", "load_state", "needed_files", "shard_files", "updates_by_name"]

_FILE_BYTES = 2**28
_RANGE_ELEMENTS = 2**24
_CHUNK_ELEMENTS = 2**22
_LOW_31_BITS, _LOW_33_BITS = 2**31 - 1, 2**33 - 1
# Odd constants of a published mixing function (splitmix64), as signed numbers.
_MULTIPLIERS = (-0x61C8864680B583EB, -0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15)


@dataclass(frozen=True)
class ShardFile:
    """A file of a checkpoint that this process writes."""

    name: str
    tensors: dict[str, Tensor] = field(default_factory=dict)
    ranges: Ranges = field(default_factory=dict)


def shard_files(
    fragments: Iterable[Fragment], buffers: Mapping[str, Tensor], generators: Mapping[str, Tensor]
) -> list[ShardFile]:
    """Return the files of this process, whose tensors are views.

    Args:
        fragments: Its ranges of trained parameters.
        buffers: Buffers of the model, which rank zero writes.
        generators: State of its random number generators.
    """
    rank = distributed.get_rank()
    files = [ShardFile(random_name(rank), dict(generators))]
    if rank == 0:
        files.append(ShardFile(BUFFERS, dict(buffers)))
    number, size = 0, _FILE_BYTES
    for part in _parts(fragments):
        added = sum(tensor.nbytes for tensor in part.tensors.values())
        if size + added > _FILE_BYTES or part.name in files[-1].ranges:
            files.append(ShardFile(shard_name(rank, number)))
            number, size = number + 1, 0
        size += added
        files[-1].ranges[part.name] = (part.start, part.weight.numel())
        files[-1].tensors.update({tensor_name(kind, part.name): one for kind, one in part.tensors.items()})
    return files


def updates_by_name(fragments: Iterable[Fragment]) -> dict[str, float]:
    """Return the number of updates of each parameter, with one transfer from the device."""
    listed = list(fragments)
    counts = [one.updates.reshape(()) for one in listed if one.updates is not None]
    values = iter(torch.stack(counts).tolist() if counts else [])
    return {one.name: 0.0 if one.updates is None else next(values) for one in listed}


def needed_files(index: ShardIndex, fragments: Iterable[Fragment]) -> set[str]:
    """Return the names of the files from which this process loads its ranges."""
    needed = {BUFFERS}
    if index.processes == distributed.get_world_size():
        needed.add(random_name(distributed.get_rank()))
    for one in fragments:
        needed |= {place[0] for place in index.covering(one.name, one.start, one.weight.numel())}
    return needed


def load_state(engine: Engine, index: ShardIndex, folder: Path) -> None:
    """Load weights, optimizer state and buffers from shard files of any sharding.

    Raises:
        LookupError: A file lacks a tensor.
        ValueError: The files hold the state of another model.
    """
    missing = {one.name for one in engine.fragments()} - index.updates.keys()
    if missing:
        raise ValueError(f"{len(missing)} of the trained parameters are missing, such as {min(missing)}")
    engine.begin_load(index.updates)
    with ShardReader(folder, index) as reader:
        for one in engine.fragments():
            reader.read_into(one.weight, "weight", one.name, one.start)
            # Another engine may not have updated this parameter of a group.
            for kind, moment in one.moments.items() if index.updates[one.name] else ():
                reader.read_into(moment, kind, one.name, one.start)
    buffers = read_tensors(folder / BUFFERS)
    for name, buffer in engine.buffers().items():
        if buffers[name].shape != buffer.shape:
            raise ValueError(
                f"buffer {name} has the shape {list(buffers[name].shape)}, not {list(buffer.shape)}"
            )
        buffer.copy_(buffers[name])
    engine.finish_load()


def frozen_checksums(
    fragments: Iterable[FrozenFragment], dtype: torch.dtype, group: CpuGroup | None
) -> dict[str, str]:
    """Return a checksum of each parameter that is not trained; all processes call it together.

    A checksum is a sum over elements, so it is the same for any sharding. It detects weights of another base
    model or seed. It does not protect against forgery; the digest of the base model does.

    Args:
        fragments: This process's ranges.
        dtype: Precision of the model; engines keep such weights in this or a higher one.
        group: All processes; None if the ranges are whole.
    """
    mine = {one.name: _checksum(one, dtype) for one in fragments}
    if group is None:
        return {name: f"{one % 2**64:016x}" for name, one in mine.items()}
    every = sorted({name for part in group.gather(sorted(mine)) for name in part})
    sums = torch.tensor([mine.get(name, 0) for name in every], dtype=torch.int64)
    distributed.all_reduce(sums, group=group.group)
    return {name: f"{one % 2**64:016x}" for name, one in zip(every, sums.tolist(), strict=True)}


def _checksum(fragment: FrozenFragment, dtype: torch.dtype) -> int:
    total = 0
    for at in range(0, fragment.values.numel(), _CHUNK_ELEMENTS):
        chunk = fragment.values[at : at + _CHUNK_ELEMENTS]
        chunk = chunk.to(dtype) if chunk.is_floating_point() else chunk
        integer = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[chunk.element_size()]
        start = fragment.start + at
        position = torch.arange(start, start + chunk.numel(), device=chunk.device)
        mixed = position * _MULTIPLIERS[0] + chunk.view(integer).long()
        mixed = (mixed ^ ((mixed >> 31) & _LOW_33_BITS)) * _MULTIPLIERS[1]
        mixed = (mixed ^ ((mixed >> 33) & _LOW_31_BITS)) * _MULTIPLIERS[2]
        total += int((mixed ^ ((mixed >> 31) & _LOW_33_BITS)).sum())
    return (total + 2**63) % 2**64 - 2**63


def _parts(fragments: Iterable[Fragment]) -> Iterator[Fragment]:
    """Yield ranges in the order of names, none with more than `_RANGE_ELEMENTS`."""
    for one in sorted(fragments, key=lambda each: each.name):
        for at in range(0, one.weight.numel(), _RANGE_ELEMENTS):
            span = slice(at, at + _RANGE_ELEMENTS)
            moments = {kind: moment[span] for kind, moment in one.moments.items()}
            yield replace(one, start=one.start + at, weight=one.weight[span], moments=moments)
