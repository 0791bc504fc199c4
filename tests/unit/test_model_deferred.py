"""Weights of a base model that engines read later: the same values, and the model around them."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from llava_av.model import base_model
from llava_av.model.conversion.importing import import_model
from tests.adapter_steps import adapter_recipe
from tests.llava_samples import write_audio_tower, write_llava
from tests.model_samples import tiny_recipe


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    root = tmp_path_factory.mktemp("base")
    source = write_llava("llava_onevision", root / "source")
    import_model(source, root / "model", audio=write_audio_tower(root / "audio"))
    return root / "model"


def recipes(base):
    return {
        "whole": tiny_recipe(model={"base": str(base)}),
        "lora": adapter_recipe(base),
        "dora": adapter_recipe(base, adapter={"dora": True}),
    }


@pytest.mark.parametrize("kind", ["whole", "lora", "dora"])
def test_what_is_read_later_is_what_is_read_at_once(base, kind):
    recipe = recipes(base)[kind]
    model, _ = base_model(recipe, base)
    later, _ = base_model(recipe, base, defer=True)
    weights = dict(model.named_parameters())
    assert {name: weight.requires_grad for name, weight in later.named_parameters()} == {
        name: weight.requires_grad for name, weight in weights.items()
    }
    assert {weight.device.type for weight in later.parameters()} == {"meta"}
    for name, weight in weights.items():
        assert torch.equal(later.deferred.read(name, weight.shape), weight), name
        assert torch.equal(later.deferred.read(name, weight.shape, slice(1, 3)), weight[1:3]), name
    buffers = dict(later.named_buffers())
    assert buffers.keys() == dict(model.named_buffers()).keys()
    assert all(torch.equal(buffers[name], one) for name, one in model.named_buffers())
    assert later.generation_config.to_dict() == model.generation_config.to_dict()
    texts = [one.config.to_json_string() for one in (later, model)]
    assert texts[0] == texts[1]


def test_files_with_other_names_are_left_to_transformers(base, tmp_path):
    """It converts names that it knows, and names the others."""
    folder = tmp_path / "model"
    folder.mkdir()
    for path in base.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    weights = load_file(folder / "model.safetensors")
    weights["another_name"] = weights.pop("newline")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"another_name|newline"):
        base_model(recipes(folder)["whole"], folder, defer=True)
