"""Examples of docs/model.md and docs/fine-tuning.md, run on tiny models with the names from the pages."""

import re
import shlex
from pathlib import Path

import pytest
import torch
import yaml
from transformers import (
    AutoModelForCausalLM,
    Qwen2Config,
    SiglipImageProcessor,
    SiglipVisionConfig,
    SiglipVisionModel,
)
from typer.testing import CliRunner

from llava_av.cli.app import app
from llava_av.model.sequence.tokenizer import train_tokenizer
from llava_av.recipe import load_recipe
from tests.llava_samples import noise_frames, write_audio_tower, write_llava
from tests.model_samples import waveform

DOCS = Path(__file__).parents[2] / "docs"


def blocks(page: str, language: str) -> list[str]:
    text = (DOCS / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def commands(name: str) -> list[list[str]]:
    found = [block.replace("\\\n", " ") for block in blocks("fine-tuning.md", "sh")]
    return [shlex.split(block)[1:] for block in found if block.startswith(f"llava-av model {name}")]


@pytest.fixture
def folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_llava("llava_onevision", Path("downloads/llava-onevision"))
    write_audio_tower(Path("downloads/wav2vec2-base"))
    return tmp_path


def test_the_example_of_an_import_makes_what_the_example_of_calls_uses(folders, capsys):
    (given,) = commands("import")
    result = CliRunner().invoke(app, given)
    assert result.exit_code == 0, result.output
    assert all(part in result.output for part in ("siglip_vision_model", "wav2vec2", "qwen2"))
    names = {"frames": noise_frames(2), "audio": waveform()}
    first, second = blocks("model.md", "python")
    exec(compile(first, "docs/model.md", "exec"), names)
    assert names["output_ids"].shape[1] > names["inputs"]["input_ids"].shape[1]
    names["times_s"] = (0.5, 1.5)
    exec(compile(second, "docs/model.md", "exec"), names)
    assert torch.equal(names["inputs"]["input_ids"], names["same_inputs"]["input_ids"])
    assert names["output_ids"].shape[1] > names["inputs"]["input_ids"].shape[1]


def test_the_example_of_composing_makes_a_model(folders):
    tokenizer = train_tokenizer(["What happens?"], 300)
    tiny = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    torch.manual_seed(0)
    language = Qwen2Config(**tiny, num_key_value_heads=2, vocab_size=len(tokenizer))
    AutoModelForCausalLM.from_config(language).save_pretrained("Qwen3-0.6B")
    tokenizer.save_pretrained("Qwen3-0.6B")
    vision = SiglipVisionConfig(**tiny, image_size=32, patch_size=8)
    SiglipVisionModel(vision).save_pretrained("siglip2-base-patch16-224")
    SiglipImageProcessor(size={"height": 32, "width": 32}).save_pretrained("siglip2-base-patch16-224")
    whole, changed = commands("compose")
    result = CliRunner().invoke(app, whole)
    assert result.exit_code == 0, result.output
    assert (folders / "model" / "model.safetensors").is_file()
    result = CliRunner().invoke(app, changed)
    assert result.exit_code == 0, result.output


def test_the_examples_of_a_recipe_of_stages_and_of_an_adapter_are_recipes(tmp_path):
    text, stages, adapter, *others = blocks("fine-tuning.md", "yaml")
    (tmp_path / "stages.yaml").write_text(stages)
    staged = load_recipe(str(tmp_path / "stages.yaml"))
    # The log on the page has the steps of these numbers of samples.
    staged = staged.with_steps_of_epochs({"speech": 80_000, "clips": 49_968})
    assert [(span.name, span.first, span.end) for span in staged.schedule.spans] == [
        ("audio-connector", 0, 1562),
        ("joint", 1562, 3562),
    ]
    (tmp_path / "my-recipe.yaml").write_text(text)
    recipe = load_recipe(str(tmp_path / "my-recipe.yaml"))
    assert recipe.model.trainable_parts == ("vision_connector", "audio_connector", "language", "embeddings")
    assert recipe.training.zero_stage == 3
    adapted = recipe.with_overrides({"model": yaml.safe_load(adapter)["model"]})
    assert adapted.model.updated_parts == ("vision_tower", "vision_connector", "audio_connector", "language")
    for other in others:
        for section, fields in yaml.safe_load(other).items():
            assert recipe.with_overrides({f"{section}.{name}": value for name, value in fields.items()})
