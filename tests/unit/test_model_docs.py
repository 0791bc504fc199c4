"""The examples of docs/model.md, run on tiny models under the names that they use."""

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
from tests.llava_samples import noise_frames, write_audio_tower, write_llava
from tests.model_samples import tiny_recipe, waveform

PAGE = (Path(__file__).parents[2] / "docs/model.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)


def command(name: str) -> list[str]:
    line = next(block for block in blocks("sh") if block.startswith(f"llava-av model {name}"))
    return shlex.split(line)[1:]


@pytest.fixture
def folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_llava("llava_onevision", Path("llava-onevision-qwen2-0.5b-ov-hf"))
    write_audio_tower(Path("wav2vec2-base"))
    return tmp_path


def test_the_example_of_an_import_makes_what_the_example_of_calls_uses(folders, capsys):
    result = CliRunner().invoke(app, command("import"))
    assert result.exit_code == 0, result.output
    assert "sees with siglip_vision_model, hears with wav2vec2, speaks with qwen2" in result.output
    names = {"frames": noise_frames(2), "sound": waveform()}
    exec(compile(blocks("python")[0], "docs/model.md", "exec"), names)
    assert names["output"].shape[1] > names["inputs"]["input_ids"].shape[1]
    names["times_s"] = (0.5, 1.5)
    exec(compile(blocks("python")[1], "docs/model.md", "exec"), names)
    assert torch.equal(names["inputs"]["input_ids"], names["again"]["input_ids"])
    assert names["output"].shape[1] > names["inputs"]["input_ids"].shape[1]


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
    result = CliRunner().invoke(app, command("compose"))
    assert result.exit_code == 0, result.output
    assert (folders / "model" / "model.safetensors").is_file()


def test_the_example_of_a_recipe_is_one():
    recipe = tiny_recipe(**yaml.safe_load(blocks("yaml")[0]))
    assert recipe.model.train == ("projectors", "language")
