"""`torchrun … -m tests.deferred_steps`: engines read a base model's weights themselves; prints JSON."""

import ctypes
import gc
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from llava_av.checkpoints import state_digest
from llava_av.model import base_model, fresh_model
from llava_av.recipe import Recipe
from llava_av.training.engines import Engine, build_engine
from llava_av.training.engines.deepspeed_engine import deepspeed_config, import_deepspeed
from llava_av.training.engines.deferred_weights import read_partitions
from llava_av.training.fresh_start import deferred_fresh_model, forget_fresh_weights
from tests.adapter_steps import adapter_recipe
from tests.engine_group import ENGINES, EVERYTHING, TURNS, print_from_group, shared_folder
from tests.model_samples import TEXTS, tiny_recipe

CASES = {
    "torch": ("torch", "fp32", {}),
    "torch bf16 dora": ("torch", "bf16", {"dora": True}),
    "zero-1": ("zero-1", "fp32", None),
    "zero-2 bf16 dora": ("zero-2", "bf16", {"dora": True}),
    "zero-3": ("zero-3", "fp32", None),
    "zero-3 bf16 dora": ("zero-3", "bf16", {"dora": True}),
}
"""Engine, precision, and changes of the adapter or None for a fully trained model, by name."""
M_MMAP_THRESHOLD = -3
LARGE = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 8, "head_dim": 128}


def recipe_of(base: Path, case: str) -> Recipe:
    name, precision, adapter = CASES[case]
    kind, stage = ENGINES[name]
    settings = {
        "training__engine": kind,
        "training__zero_stage": stage,
        "training__num_processes": distributed.get_world_size(),
        "training__precision": precision,
    }
    if adapter is None:
        return tiny_recipe(model={"base": str(base)}, **settings)
    return adapter_recipe(base, adapter=adapter, **settings)


def write_base(folder: Path, **language: Any) -> None:
    """Write a fresh model as a base model, in several files."""
    recipe = tiny_recipe()
    recipe = recipe.with_overrides({"model.language": recipe.model.language | language})
    model, processor = fresh_model(recipe, TEXTS)
    model.save_pretrained(folder, max_shard_size="2MB" if not language else "50MB")
    processor.save_pretrained(folder)


def trained(base: Path, case: str, *, defer: bool) -> tuple[str, float]:
    """Return the digest of the weights after a step from a base model, and its loss."""
    recipe = recipe_of(base, case)
    return trained_step(recipe, *base_model(recipe, base, defer=defer), defer=defer)


def trained_fresh(work: Path, name: str, *, defer: bool) -> tuple[str, float]:
    """Return the digest of the weights after a step from a fresh model, and its loss."""
    recipe = fresh_recipe(name)
    made = deferred_fresh_model(recipe, lambda: TEXTS, work) if defer else fresh_model(recipe, TEXTS)
    return trained_step(recipe, *made, defer=defer)


def fresh_recipe(name: str) -> Recipe:
    kind, stage = ENGINES[name]
    processes = distributed.get_world_size()
    return tiny_recipe(training__engine=kind, training__zero_stage=stage, training__num_processes=processes)


def trained_step(recipe: Recipe, model: Any, processor: Any, *, defer: bool) -> tuple[str, float]:
    assert (model.deferred is not None) == defer
    engine: Engine = build_engine(model.train(), recipe)
    assert model.deferred is None
    batch = dict(processor.collate([processor.encode(TURNS, one) for one in EVERYTHING]))
    torch.manual_seed(0)
    loss = engine.model(**batch).loss
    engine.backward(loss, last=True)
    engine.step(1e-3)
    return state_digest({"weights": engine.weights()}), float(loss.detach())


def peak_bytes() -> int:
    """Return the largest resident memory of this process since `forget_peak`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) * 1024


def forget_peak() -> int:
    """Let the peak start from the present memory, which is returned."""
    gc.collect()
    # Freed memory that the allocator keeps would hide what is allocated next.
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return peak_bytes()


def peak_of_start(base: Path, case: str) -> dict[str, Any]:
    """Return the peak of host memory over all processes while the weights are read, over one copy of them."""
    recipe = recipe_of(base, case)
    before = forget_peak()
    model, _ = base_model(recipe, base, defer=True)
    return peak_of_reading(recipe, model, before)


def peaks_of_fresh_start(work: Path, name: str) -> dict[str, Any]:
    """Return the peak while a fresh model is built and written, and while it is read, as `peak_of_start`."""
    recipe = fresh_recipe(name)
    recipe = recipe.with_overrides({"model.language": recipe.model.language | LARGE})
    before = forget_peak()
    model, _ = deferred_fresh_model(recipe, lambda: TEXTS, work)
    building = over_all(peak_bytes() - before)
    forget_peak()
    found = peak_of_reading(recipe, model, before)
    forget_fresh_weights(work)
    return found | {"building": building / found["bytes"], "files": len(list(work.iterdir()))}


def over_all(count: int) -> float:
    """Return the sum of a number over all processes."""
    total = torch.tensor(float(count))
    distributed.all_reduce(total)
    return float(total)


def peak_of_reading(recipe: Recipe, model: Any, before: int) -> dict[str, Any]:
    if recipe.training.engine == "torch":
        build_engine(model, recipe)
    else:
        # The optimizer's states follow only after the weights.
        dtype = torch.bfloat16 if recipe.training.precision == "bf16" else torch.float32
        trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
        read_partitions(model, import_deepspeed(), deepspeed_config(recipe, trained), dtype)
    held = over_all(peak_bytes() - before)
    parameters = sum(getattr(weight, "ds_numel", weight.numel()) for weight in model.parameters())
    return {"bytes": parameters * 4, "ratio": held / (parameters * 4)}


def results(rank: int) -> dict[str, Any]:
    with shared_folder(rank) as root:
        # glibc raises the size from which it returns freed memory at once, up to 32 MiB. Weights of large
        # models are larger, but those of this one are not.
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 2**17)
        if rank == 0:
            write_base(root / "tiny")
            write_base(root / "large", **LARGE)
        distributed.barrier()
        found = {}
        for case in CASES:
            digests, losses = zip(
                *(trained(root / "tiny", case, defer=defer) for defer in (False, True)), strict=True
            )
            found[case] = {"digests": digests, "losses": losses}
        peaks = {case: peak_of_start(root / "large", case) for case in ("torch", "zero-3")}
        for name in ("torch", "zero-2", "zero-3"):
            digests, losses = zip(
                *(trained_fresh(root, name, defer=defer) for defer in (False, True)), strict=True
            )
            found[f"{name} fresh"] = {"digests": digests, "losses": losses}
        (root / "work").mkdir(exist_ok=True)
        distributed.barrier()
        fresh = {name: peaks_of_fresh_start(root / "work", name) for name in ("torch", "zero-3")}
        return {"same": found, "peaks": peaks, "fresh peaks": fresh}


if __name__ == "__main__":
    print_from_group(results)
