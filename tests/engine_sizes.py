"""Two processes: bytes that each ZeRO stage really keeps and saves after a step; prints them as JSON."""

import tempfile
from pathlib import Path
from typing import Any

from torch import Tensor, distributed

from llava_av.training.engines import build_engine
from tests.engine_group import EVERYTHING, TURNS, print_from_group
from tests.model_samples import tiny_model, tiny_recipe

STAGES = (1, 2, 3)


def sizes(stage: int, folder: Path) -> dict[str, int]:
    """Return the bytes of this process's optimizer states, and of the files of all processes."""
    recipe = tiny_recipe(training__zero_stage=stage)
    model, processor = tiny_model()
    engine = build_engine(model.train(), recipe)
    batch = processor.collate([processor.encode(TURNS, one) for one in EVERYTHING])
    engine.step(engine.model(**batch).loss, 1e-3)
    kept = engine.optimizer_state()
    tensors = [*kept["fp32"], *(value for state in kept["state"].values() for value in state.values())]
    engine.save(folder)
    distributed.barrier()
    return {
        "vocabulary": len(processor.tokenizer),
        "optimizer_states": sum(tensor.nbytes for tensor in tensors if isinstance(tensor, Tensor)),
        "files": sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
    }


def results(rank: int) -> dict[str, Any]:
    found = {}
    for stage in STAGES:
        shared: list[Any] = [tempfile.mkdtemp() if rank == 0 else None]
        distributed.broadcast_object_list(shared, src=0)
        found[str(stage)] = sizes(stage, Path(shared[0]))
    return found


if __name__ == "__main__":
    print_from_group(results)
