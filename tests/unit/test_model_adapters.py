"""LoRA and DoRA adapters of a base model: what is trained, saved, loaded and merged."""

import json
import re

import peft
import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor
from typer.testing import CliRunner

from llava_av.checkpoints import CheckpointError, base_digest, fetch_adapter_base
from llava_av.cli.app import app
from llava_av.errors import UserError
from llava_av.model import LlavaAvForConditionalGeneration, base_model, load_saved_model
from llava_av.model.adapters import merge_adapter
from llava_av.model.conversion.importing import import_model
from llava_av.model.files.reading import ModelFilesError
from llava_av.model.parts import trainable_parts
from llava_av.recipe import RecipeError
from llava_av.training.optimizer import build_optimizer
from llava_av.workflows.estimate.memory import checkpoint_bytes
from llava_av.workflows.estimate.meta_model import build_meta_model, model_size
from tests.adapter_steps import adapter_recipe, write_adapter, write_base
from tests.llava_samples import write_llava
from tests.model_samples import clip, tiny_recipe

TURNS = [("human", "Which colour is shown?"), ("gpt", "red")]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def deaf(tmp_path_factory):
    root = tmp_path_factory.mktemp("deaf")
    import_model(write_llava("llava", root / "source"), root / "model")
    return root / "model"


@pytest.fixture(scope="module", params=[False, True], ids=["lora", "dora"])
def trained(request, base, tmp_path_factory):
    """Return a model whose trained weights differ from fresh ones, its processor, and its folder."""
    folder = tmp_path_factory.mktemp("adapter") / "model"
    return *write_adapter(folder, base, dora=request.param), folder


def logits(model, processor):
    batch = processor.collate([processor.encode(TURNS, clip(0))])
    with torch.no_grad():
        return model.eval()(**batch, logits_to_keep=0).logits


def test_adapters_are_trained_with_the_settings_of_their_part(base):
    recipe = adapter_recipe(base).with_overrides(
        {"optimizer.parts": {"language": {"learning_rate": 0.5}, "vision_tower": {"learning_rate": 0.25}}}
    )
    model, _ = base_model(recipe, base)
    part_of = trainable_parts(model)
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert {part_of[name] for name in trained if ".lora_" in name} == {"language", "vision_tower"}
    whole = {name for name in trained if ".lora_" not in name}
    assert {part_of[name] for name in whole} == {"vision_connector", "audio_connector"}
    assert whole == {name for name, part in part_of.items() if part.endswith("_connector")}
    rates = {
        id(w): g["lr_ratio"]
        for g in build_optimizer(model, recipe.optimizer).param_groups
        for w in g["params"]
    }
    rate_of = {"language": 0.5, "vision_tower": 0.25}
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            expected = rate_of.get(part_of[name], recipe.optimizer.learning_rate)
            assert rates[id(weight)] == expected / recipe.optimizer.learning_rate


def test_all_linear_layers_of_attention_and_mlp_are_adapted_and_no_other(base):
    model, _ = base_model(adapter_recipe(base, adapter={"targets": {"language": "all-linear"}}), base)
    adapted = {name.split(".lora_")[0] for name, _ in model.named_parameters() if ".lora_" in name}
    kinds = {name.rpartition(".")[2] for name in adapted}
    assert kinds == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert len(adapted) == len(kinds) * model.config.text_config.num_hidden_layers


def test_layers_that_no_output_depends_on_are_not_adapted(deaf):
    """Distributed training would wait for their gradients."""
    model, _ = base_model(adapter_recipe(deaf, adapter={"targets": {"vision_tower": "all-linear"}}), deaf)
    assert (model.config.vision_feature_layer, model.config.vision_config.num_hidden_layers) == (-2, 3)
    adapted = {name for name, _ in model.vision_tower.named_parameters() if ".lora_" in name}
    assert {int(re.search(r"layers\.(\d+)", name)[1]) for name in adapted} == {0, 1}


def test_fresh_adapters_change_nothing_and_equal_seeds_give_equal_weights(base):
    recipe = adapter_recipe(base)
    (one, processor), (other, _) = (base_model(recipe, base) for _ in range(2))
    plain, _ = load_saved_model(base)
    assert torch.equal(logits(one, processor), logits(plain, processor))
    another, _ = base_model(recipe.with_overrides({"seed": 1}), base)
    name = next(name for name, _ in one.named_parameters() if "lora_A" in name)
    weights = [model.state_dict()[name] for model in (one, other, another)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_the_folder_gives_the_trained_model_here_and_in_peft(base, trained):
    model, processor, folder = trained
    expected = logits(model, processor)
    assert not torch.equal(expected, logits(load_saved_model(base)[0], processor))
    loaded, again = load_saved_model(folder, base)
    assert torch.equal(logits(loaded, again), expected)
    assert not any(weight.requires_grad for weight in loaded.parameters())
    plain = LlavaAvForConditionalGeneration.from_pretrained(base, config=model.config)
    assert torch.equal(logits(peft.PeftModel.from_pretrained(plain, folder), processor), expected)
    assert {path.name for path in folder.glob("*.safetensors")} == {"adapter_model.safetensors"}


def test_a_merged_model_has_the_logits_of_base_and_adapter(base, trained):
    """The largest observed difference is 2e-6."""
    model, processor, folder = trained
    merged, _ = load_saved_model(folder, base)
    merge_adapter(merged)
    assert merged.state_dict().keys() == load_saved_model(base)[0].state_dict().keys()
    torch.testing.assert_close(logits(merged, processor), logits(model, processor), atol=1e-4, rtol=0)


def test_the_base_is_found_and_must_be_the_one_of_the_training(base, trained, tmp_path):
    _, _, folder = trained
    assert fetch_adapter_base(folder, tmp_path) == base
    assert fetch_adapter_base(base, tmp_path) is None
    (base / "note.txt").write_text("another file")
    try:
        with pytest.raises(CheckpointError, match="is not the model"):
            fetch_adapter_base(folder, tmp_path)
    finally:
        (base / "note.txt").unlink()
    with pytest.raises(CheckpointError, match=r"contains an adapter.*export"):
        base_digest(str(folder))
    with pytest.raises(ModelFilesError, match="adapter without its base model"):
        load_saved_model(folder)


def test_an_exported_model_is_read_by_transformers_and_peft_alone(base, trained, tmp_path):
    """The largest observed difference of merged logits is 2e-6."""
    model, processor, folder = trained
    expected = logits(model, processor)
    for name, options, kind in (("merged", ["--merge-adapter"], "merged model"), ("adapter", [], "adapter")):
        done = CliRunner().invoke(app, ["model", "export", str(folder), str(tmp_path / name), *options])
        assert done.exit_code == 0, done.output
        assert done.stdout == f"{tmp_path / name}: {kind}\n"
    merged = AutoModelForImageTextToText.from_pretrained(tmp_path / "merged")
    again = AutoProcessor.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(logits(merged, again), expected, atol=1e-4, rtol=0)
    plain = AutoModelForImageTextToText.from_pretrained(base)
    adapted = peft.PeftModel.from_pretrained(plain, tmp_path / "adapter")
    assert torch.equal(logits(adapted, processor), expected)
    assert not list((tmp_path / "merged").glob("adapter*"))
    assert fetch_adapter_base(tmp_path / "merged", tmp_path) is None


def test_a_whole_model_is_exported_as_it_is_and_nothing_is_overwritten(base, tmp_path):
    target = tmp_path / "copy"
    command = ["model", "export", str(base), str(target)]
    told = json.loads(CliRunner().invoke(app, [*command, "--json"]).stdout)
    assert told == {"folder": str(target), "kind": "model"}
    assert (target / "model.safetensors").read_bytes() == (base / "model.safetensors").read_bytes()
    again = CliRunner().invoke(app, [*command, "--merge-adapter"])
    assert isinstance(again.exception, ModelFilesError)
    assert f"{target} is not empty" in str(again.exception)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda config: config.update(peft_type="IA3"), "peft_type"),
        (lambda config: config.update(r=0), r"\br: "),
        (lambda config: config.update(target_modules=["no_such_layer"]), "no_such_layer"),
        (lambda config: config.update(r=3), "does not fit its base model"),
    ],
)
def test_a_folder_that_does_not_fit_is_one_line(base, trained, tmp_path, change, message):
    _, _, folder = trained
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in folder.iterdir():
        (broken / path.name).write_bytes(path.read_bytes())
    config = json.loads((broken / "adapter_config.json").read_text())
    change(config)
    (broken / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(ModelFilesError, match=message) as caught:
        load_saved_model(broken, base)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ({"language": ["q_prj"]}, "'q_prj'.*q_proj"),
        ({"language": ["linear_1"]}, "'linear_1'"),
    ],
)
def test_an_unknown_layer_is_one_line_with_those_of_the_part(base, targets, message):
    with pytest.raises(UserError, match=message) as caught:
        base_model(adapter_recipe(base, adapter={"targets": targets}), base)
    assert "\n" not in str(caught.value)


def test_a_part_that_the_base_lacks_is_one_line(deaf):
    recipe = adapter_recipe(deaf, adapter={"targets": {"audio_tower": "all-linear"}})
    with pytest.raises(UserError, match="audio_tower, but the model has no such part"):
        base_model(recipe, deaf)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"language": {"model_type": "qwen3"}, "adapter": {}}, "fresh model has none: set base"),
        ({"base": "there", "adapter": {}}, r"language.*trainable_parts=\[vision_tower, .*embeddings\]"),
        ({"base": "there", "adapter": {"rank": 0}}, "adapter.rank"),
        ({"base": "there", "adapter": {"targets": {"embeddings": "all-linear"}}}, "targets"),
        ({"base": "there", "adapter": {"targets": {"language": []}}}, "targets"),
    ],
)
def test_a_recipe_says_what_an_adapter_needs(model, message):
    with pytest.raises(RecipeError, match=message):
        tiny_recipe(model=model)


def test_a_recipe_may_train_adapters_alone_and_keeps_its_digest_without_them(base):
    alone = {
        "base": str(base),
        "trainable_parts": [],
        "adapter": {"targets": {"language": ["v_proj", "q_proj"]}},
    }
    recipe = tiny_recipe(model=alone)
    assert recipe.model.adapter.targets == {"language": ("q_proj", "v_proj")}
    assert recipe.model.updated_parts == ("language",)
    assert '"adapter"' in recipe.identity_json()
    assert '"adapter"' not in tiny_recipe().identity_json()
    with pytest.raises(RecipeError, match=r"optimizer\.parts has audio_tower"):
        recipe.with_overrides({"optimizer.parts.audio_tower.learning_rate": 1e-4})


@pytest.mark.parametrize("dora", [False, True])
def test_an_estimate_counts_adapters(base, dora):
    recipe = adapter_recipe(base, adapter={"dora": dora})
    model, _ = base_model(recipe, base)
    size = model_size(build_meta_model(recipe))
    assert size.parameters == sum(weight.numel() for weight in model.parameters())
    assert size.trained == sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    whole = model_size(build_meta_model(tiny_recipe(model={"base": str(base)})))
    assert whole.parameters < size.parameters
    assert checkpoint_bytes(size) == 12 * size.trained < checkpoint_bytes(whole) / 5
