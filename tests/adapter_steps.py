"""`torchrun … -m tests.adapter_steps`: engines train adapters; prints losses and what is saved as JSON."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from llava_av.checkpoints import base_digest
from llava_av.model import LlavaAvForConditionalGeneration, LlavaAvProcessor, base_model, load_saved_model
from llava_av.model.adapters import adapted_weights
from llava_av.model.conversion.importing import import_model
from llava_av.model.parts import recompute_activations, trainable_parts
from llava_av.recipe import Recipe
from llava_av.training.engines import build_engine
from llava_av.training.model_folder import saved_names, write_model_folder
from tests.engine_group import ENGINES, EVERYTHING, TURNS, print_from_group, shared_folder
from tests.llava_samples import write_audio_tower, write_llava
from tests.model_samples import tiny_recipe

STEPS = 3
CASES = {
    "torch": ("torch", "fp32", False),
    "torch bf16 dora": ("torch", "bf16", True),
    "zero-2": ("zero-2", "fp32", False),
    "zero-3": ("zero-3", "fp32", False),
    "zero-3 bf16 dora": ("zero-3", "bf16", True),
}
"""Engine, precision, and whether the adapter is DoRA, by name."""


def adapter_recipe(base: Path, **changes: Any) -> Recipe:
    """Return a recipe with adapters of the language model and the vision tower, and trained connectors."""
    adapter = {"rank": 2, "dropout": 0.1, "targets": {"language": "all-linear", "vision_tower": ["q_proj"]}}
    return tiny_recipe(
        model={
            "base": str(base),
            "base_digest": "0" * 64,
            "trainable_parts": ["vision_connector", "audio_connector"],
            "adapter": adapter | changes.pop("adapter", {}),
        },
        **changes,
    )


def write_base(folder: Path) -> Path:
    """Write a base model with audio, and return its folder."""
    source = write_llava("llava_onevision", folder / "source")
    import_model(source, folder / "model", audio=write_audio_tower(folder / "audio"))
    return folder / "model"


def write_adapter(
    folder: Path, base: Path, *, dora: bool
) -> tuple[LlavaAvForConditionalGeneration, LlavaAvProcessor]:
    """Write the folder of an adapter whose weights differ from fresh ones; return its model and processor."""
    recipe = adapter_recipe(base, adapter={"dora": dora})
    recipe = recipe.with_overrides({"model.base_digest": base_digest(str(base))})
    model, processor = base_model(recipe, base)
    torch.manual_seed(1)
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data += 0.05 * torch.randn_like(weight)
    write_model_folder(folder, model, processor, recipe, model.state_dict())
    return model.eval(), processor


def results_of(base: Path, case: str, folder: Path) -> dict[str, Any]:
    """Train with packed rows and recomputed activations, write the model's folder, and load it again."""
    name, precision, dora = CASES[case]
    kind, stage = ENGINES[name]
    recipe = adapter_recipe(
        base,
        adapter={"dora": dora, "dropout": 0.0},
        training__engine=kind,
        training__zero_stage=stage,
        training__num_processes=distributed.get_world_size(),
        training__precision=precision,
    )
    model, processor = base_model(recipe, base)
    before = {name: one.detach().clone() for name, one in model.state_dict().items()}
    recompute_activations(model.train(), ["vision_tower", "language"])
    engine = build_engine(model, recipe)
    batch = dict(processor.collate_packed([[processor.encode(TURNS, one) for one in EVERYTHING]]))
    losses = []
    for _ in range(STEPS):
        loss = engine.model(**batch).loss
        losses.append(float(loss.detach()))
        engine.backward(loss, last=True)
        engine.step(1e-2)
    weights = engine.weights(saved_names(model, recipe))
    if distributed.get_rank() != 0:
        return {}
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    write_model_folder(folder, model, processor, recipe, weights)
    loaded, _ = load_saved_model(folder, base)
    found = loaded.state_dict()
    saved = adapted_weights(model)
    moved = [name for name, one in found.items() if not torch.equal(one, before[name].to(dtype))]
    return {
        "losses": losses,
        "loaded": all(torch.equal(found[name], weights[name].to(dtype)) for name in saved),
        "moved": sorted(moved) == sorted(saved),
        "parts": sorted({trainable_parts(model)[name] for name in saved}),
        "base": json.loads((folder / "base.json").read_text()),
    }


def results(rank: int) -> dict[str, Any]:
    with shared_folder(rank) as root:
        if rank == 0:
            source = write_llava("llava_onevision", root / "source")
            import_model(source, root / "model", audio=write_audio_tower(root / "audio"))
        distributed.barrier()
        return {case: results_of(root / "model", case, root / case) for case in CASES}


if __name__ == "__main__":
    print_from_group(results)
