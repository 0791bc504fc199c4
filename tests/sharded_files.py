"""State of an engine in shard files of a local folder, without an object store."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from llava_av.checkpoints import state_digest
from llava_av.checkpoints.shard_files import read_tensors, write_tensors
from llava_av.checkpoints.shard_index import SHARD_INDEX, ShardIndex, parse_index, random_name
from llava_av.training.collective import CpuGroup
from llava_av.training.engines import Engine
from llava_av.training.random_state import random_state, set_random_state
from llava_av.training.sharded_state import frozen_checksums, load_state, shard_files, updates_by_name


def save_engine(engine: Engine, folder: Path, group: CpuGroup) -> None:
    """Write the state of all processes into one folder; all processes call it together."""
    files = shard_files(engine.fragments(), engine.buffers(), random_state())
    for one in files:
        write_tensors(folder / one.name, one.tensors)
    ranges = {one.name: one.ranges for one in files if one.ranges}
    every = group.gather((ranges, updates_by_name(engine.fragments())))
    index = ShardIndex(
        processes=len(every),
        updates={name: count for _, part in every for name, count in part.items()},
        frozen=frozen_checksums(engine.frozen(), torch.float32, group),
        files={name: found for part, _ in every for name, found in part.items()},
    )
    if group.is_rank_zero:
        (folder / SHARD_INDEX).write_text(json.dumps(index.model_dump(mode="json")))
    group.gather(None)


def load_engine(engine: Engine, folder: Path) -> ShardIndex:
    """Load what any number of processes wrote; return its index."""
    index = parse_index((folder / SHARD_INDEX).read_bytes())
    load_state(engine, index, folder)
    if index.processes == distributed.get_world_size():
        set_random_state(read_tensors(folder / random_name(distributed.get_rank())))
    return index


def own_state(engine: Engine) -> Any:
    """Return the trained state of this process as one value that `state_digest` accepts."""
    return [(one.name, one.start, one.tensors, one.updates) for one in engine.fragments()]


def own_digest(engine: Engine) -> str:
    """Return a digest of the trained state of this process."""
    return state_digest({"state": own_state(engine)})
