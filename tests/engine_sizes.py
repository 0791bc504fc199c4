"""Two processes: bytes that each engine really keeps and saves after a step; prints them as JSON."""

from itertools import product
from pathlib import Path
from typing import Any

from torch import Tensor

from llava_av.training.collective import CpuGroup
from llava_av.training.engines import Engine, local_part
from tests.engine_group import ENGINES, EVERYTHING, EngineSample, print_from_group, shared_folder
from tests.sharded_files import save_engine

PRECISIONS = ("fp32", "bf16")


def sizes(name: str, precision: str, folder: Path) -> dict[str, int]:
    """Return the bytes of this process after a step, and those of the files of all processes."""
    sample = EngineSample(name, precision=precision)
    engine = sample.engine
    engine.backward(engine.model(**sample.batch(EVERYTHING)).loss, last=True)
    gradients = [local_part(one.grad) for one in sample.model.parameters() if one.grad is not None]
    gradient_bytes = _bytes(gradients)
    engine.step(1e-3)
    save_engine(engine, folder, CpuGroup())
    weights = list(sample.model.parameters())
    # ZeRO 3 keeps its shard of a weight in an attribute.
    shards = [local_part(getattr(weight, "ds_tensor", weight)) for weight in weights]
    found = {
        "vocabulary": len(sample.processor.tokenizer),
        "weights": sum(shard.nbytes for shard in shards),
        "optimizer_states": _optimizer_states(engine, name),
        "files": sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
    }
    if name == "torch":
        found["gradients"] = gradient_bytes
    return found


def _optimizer_states(engine: Engine, name: str) -> int:
    """Return the bytes of moments, and of float32 weights where the model has others."""
    fragments = list(engine.fragments())
    kinds = ("exp_avg", "exp_avg_sq") if name == "torch" else ("weight", "exp_avg", "exp_avg_sq")
    counts = [one.updates for one in fragments] if name == "torch" else []
    return _bytes([[one.tensors[kind] for kind in kinds] for one in fragments]) + _bytes(counts)


def _bytes(content: Any) -> int:
    """Return the bytes of all tensors in nested lists and mappings."""
    if isinstance(content, Tensor):
        return content.nbytes
    if isinstance(content, dict):
        content = list(content.values())
    return sum(map(_bytes, content)) if isinstance(content, list | tuple) else 0


def results(rank: int) -> dict[str, Any]:
    found = {}
    for name, precision in product(ENGINES, PRECISIONS):
        with shared_folder(rank) as folder:
            found[f"{name} {precision}"] = sizes(name, precision, folder)
    return found


if __name__ == "__main__":
    print_from_group(results)
