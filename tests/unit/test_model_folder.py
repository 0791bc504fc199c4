"""Unusable model folders: one-line errors before anything is allocated or run."""

import json
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from llava_av.cli.app import app
from llava_av.errors import UserError
from llava_av.model import load_saved_model
from llava_av.model.conversion.importing import import_model
from tests.llava_samples import write_audio_tower, write_llava
from tests.model_samples import tiny_model

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
INDEX = "model.safetensors.index.json"
WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Return a folder with a model to import, one to chat with, and an audio tower to add."""
    root = tmp_path_factory.mktemp("sources")
    write_llava("llava", root / "import")
    write_llava("llava_onevision", root / "onevision")
    (root / "audio").mkdir()
    write_audio_tower(root / "audio")
    for part in tiny_model():
        part.save_pretrained(root / "chat")
    return root


def edit(name, **fields):
    def change(folder):
        path = folder / name
        content = json.loads(path.read_text()) if path.is_file() else {}
        kept = {key: value for key, value in (content | fields).items() if value is not None}
        path.write_text(json.dumps(kept))

    return change


def write(name, content):
    return lambda folder: (folder / name).write_bytes(content)


def only(name, content):
    def change(folder):
        for path in folder.iterdir():
            path.unlink()
        (folder / name).write_bytes(content)

    return change


def cut(folder):
    os.truncate(folder / WEIGHTS, (folder / WEIGHTS).stat().st_size * 2 // 3)


def pointers(folder):
    for path in folder.iterdir():
        path.write_bytes(POINTER)


def index(content):
    def change(folder):
        (folder / WEIGHTS).unlink()
        (folder / INDEX).write_text(json.dumps(content))

    return change


COMMANDS = ("import", "chat", "audio")
EVERYWHERE = {
    "AWQ": (edit("config.json", quantization_config={"quant_method": "awq", "bits": 4}), r"\(awq, 4 bits"),
    "GPTQ": (edit("config.json", quantization_config={"quant_method": "gptq"}), r"\(gptq, by config.json"),
    "bitsandbytes": (edit("config.json", quantization_config={"load_in_4bit": True}), r"4 bits, by config"),
    "quantised part": (edit("config.json", part={"quantization_config": {"quant_method": "fp8"}}), r"\(fp8"),
    "AutoGPTQ's file": (edit("quantize_config.json", bits=4), "4 bits, by quantize_config.json"),
    "MLX": (edit("config.json", quantization={"bits": 4}), "4 bits, by config.json"),
    "a pointer as shard": (write(WEIGHTS, POINTER), rf"Git LFS pointers instead of {WEIGHTS}: run `git lfs"),
    "pointers alone": (pointers, r"Git LFS pointers instead of .*config\.json"),
    "a cut shard": (cut, rf"{WEIGHTS} of \d+ bytes is truncated"),
    "an empty shard": (write(WEIGHTS, b""), rf"{WEIGHTS} of 0 bytes is truncated"),
    "no weights": (lambda folder: (folder / WEIGHTS).unlink(), f"has no {WEIGHTS} and no {INDEX}"),
    "an index alone": (
        index({"weight_map": {"a": "1.safetensors"}}),
        r"lacks 1 of the 1 files .* 1\.safetensors",
    ),
    "an index to elsewhere": (index({"weight_map": {"a": "../a"}}), "outside its folder: ../a"),
    "an index without files": (index({}), "has no weight_map"),
    "an index that is a list": (index([]), "must be a JSON object, is a list"),
    "a config that is a list": (
        write("config.json", b"[]"),
        r"config\.json must be a JSON object, is a list",
    ),
    "a config that is text": (write("config.json", b"hello"), r"config\.json is not JSON"),
    "a config that is empty": (write("config.json", b""), r"config\.json is not JSON"),
    "a config in another encoding": (write("config.json", b"\xff\xfe"), r"config\.json is not JSON"),
    "a deep config": (write("config.json", b"[" * 200_000), r"config\.json is not JSON"),
    "a size that is none": (
        edit("config.json", hidden_size="big", text_config={"hidden_size": "big"}),
        "big",
    ),
    "layers without number": (edit("config.json", num_hidden_layers=10**9), "num_hidden_layers=1000000000"),
    "a type that is a list": (edit("config.json", model_type=["llava"]), "model_type=.* must be text"),
    "GGUF": (only("model.gguf", b"GGUF"), "weights in GGUF"),
    "an adapter": (only("adapter_config.json", b"{}"), "has only an adapter"),
    "code of its own": (
        edit("config.json", model_type="new", auto_map={"AutoConfig": "code.Config"}),
        r"config\.json names its own code \(auto_map: AutoConfig\)",
    ),
    "a processor of its own": (
        edit("preprocessor_config.json", auto_map={"AutoImageProcessor": "code.Processor"}),
        "names its own code",
    ),
}
OF_MODELS = {
    "a tokenizer of its own": (
        edit("tokenizer_config.json", auto_map={"AutoTokenizer": ["code.Tokenizer", None]}),
        r"tokenizer_config\.json names its own code",
    ),
    "a tokenizer of its own, as old files name it": (
        edit("tokenizer_config.json", auto_map=["code.Tokenizer", None]),
        r"tokenizer_config\.json names its own code",
    ),
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), r"has no tokenizer \("),
    "no special tokens": (lambda folder: (folder / "tokenizer_config.json").unlink(), "tokenizer_config"),
    "a tokenizer that is a list": (write("tokenizer.json", b"[]"), "cannot be read: "),
    "a tokenizer without content": (write("tokenizer.json", b"{}"), "cannot be read: "),
    "a chat template without end": (
        write("chat_template.jinja", b"{{ 'a' * 10 ** 11 }}"),
        "chat template cannot be used: it exceeds",
    ),
    "LLaVA's own layout": (
        only(
            "config.json",
            json.dumps(
                {
                    "architectures": ["LlavaLlamaForCausalLM"],
                    "model_type": "llava",
                    "hidden_size": 4096,
                    "mm_vision_tower": "openai/clip-vit-large-patch14-336",
                }
            ).encode(),
        ),
        r"LLaVA's own code \(LlavaLlamaForCausalLM\): .*llava-hf/llava-1\.5-7b-hf",
    ),
    "a config without parts": (
        edit("config.json", model_type="llava", text_config=None),
        "of type llava has no text_config: .*llava-hf/",
    ),
}
CASES = [
    *((command, name, *case) for command in COMMANDS for name, case in EVERYWHERE.items()),
    *((command, name, *case) for command in COMMANDS[:2] for name, case in OF_MODELS.items()),
]


def call(command, folder, sources, target):
    """Return the command line that reads this folder."""
    if command == "chat":
        return ["chat", str(folder), "Who?", "--device", "cpu", "--max-new-tokens", "1"]
    if command == "audio":
        return ["model", "import", str(sources / "import"), str(target), "--audio", str(folder)]
    return ["model", "import", str(folder), str(target)]


@pytest.mark.parametrize(
    ("command", "change", "line"),
    [pytest.param(command, change, line, id=f"{command}: {name}") for command, name, change, line in CASES],
)
def test_a_folder_that_cannot_be_used_is_one_line(sources, tmp_path, command, change, line):
    folder = shutil.copytree(sources / command, tmp_path / "folder")
    change(folder)
    given = call(command, folder, sources, tmp_path / "target")
    with pytest.raises(UserError, match=line) as caught:
        CliRunner().invoke(app, given, catch_exceptions=False, input="y\n")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600
    assert not (tmp_path / "target").exists()


def test_code_in_a_folder_neither_runs_nor_prompts(sources, tmp_path):
    """The config has a known type, so its code is ignored; a tokenizer's code is rejected."""
    folder = shutil.copytree(sources / "import", tmp_path / "folder")
    (folder / "code.py").write_text(
        f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Config: pass\nTokenizer = Config\n"
    )
    edit("config.json", auto_map={"AutoConfig": "code.Config", "AutoModel": "code.Config"})(folder)
    given = call("import", folder, sources, tmp_path / "target")
    assert CliRunner().invoke(app, given, input="y\n").exit_code == 0
    edit("tokenizer_config.json", auto_map={"AutoTokenizer": ["code.Tokenizer", None]})(folder)
    refused = CliRunner().invoke(app, call("import", folder, sources, tmp_path / "other"), input="y\n")
    assert (refused.exit_code, "y/N" in refused.output) == (1, False)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("ratio", ["anyres", "anyres_max_x", "anyres_max_0", "pad"])
def test_an_aspect_ratio_without_a_limit_is_named(sources, tmp_path, ratio):
    folder = shutil.copytree(sources / "onevision", tmp_path / "folder")
    edit("config.json", vision_aspect_ratio=ratio)(folder)
    with pytest.raises(UserError, match=f"vision_aspect_ratio='{ratio}' of the source must be anyres_max_N"):
        import_model(folder, tmp_path / "target")


def test_a_config_with_more_weights_than_the_files_is_rejected_before_they_are_allocated(sources, tmp_path):
    folder = shutil.copytree(sources / "import", tmp_path / "folder")
    edit("config.json", text_config={"model_type": "llama"})(folder)
    with pytest.raises(UserError, match=r"config\.json describes 6,\d{3},\d{3},\d{3} weights"):
        import_model(folder, tmp_path / "target")
    own = shutil.copytree(sources / "chat", tmp_path / "own")
    text = json.loads((own / "config.json").read_text())["text_config"] | {"intermediate_size": 10**8}
    edit("config.json", text_config=text)(own)
    with pytest.raises(UserError, match=r"config\.json describes \d+,\d{3},\d{3},\d{3} weights"):
        load_saved_model(own)


class _Code:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def test_pickled_weights_are_read_without_their_code(sources, tmp_path):
    folder = shutil.copytree(sources / "audio", tmp_path / "folder")
    weights = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    import_model(sources / "import", tmp_path / "plain", audio=folder)
    kept = load_file(tmp_path / "plain" / WEIGHTS)[
        "audio_tower.model.encoder.layers.0.attention.k_proj.weight"
    ]
    assert torch.equal(kept, weights["encoder.layers.0.attention.k_proj.weight"])
    torch.save(weights | {"a": _Code(str(tmp_path / "ran"))}, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="more than tensors, which may be code; use safetensors"):
        import_model(sources / "import", tmp_path / "evil", audio=folder)
    assert not (tmp_path / "ran").exists()
    for content in (b"hello", (folder / "pytorch_model.bin").read_bytes()[:60_000]):
        (folder / "pytorch_model.bin").write_bytes(content + bytes(100_000))
        with pytest.raises(UserError, match=r"folder cannot be read: .*; check its files"):
            import_model(sources / "import", tmp_path / "cut", audio=folder)


def test_a_model_to_chat_with_is_never_a_pickle(sources, tmp_path):
    folder = shutil.copytree(sources / "chat", tmp_path / "folder")
    torch.save(load_file(folder / WEIGHTS), folder / "pytorch_model.bin")
    (folder / WEIGHTS).unlink()
    with pytest.raises(UserError, match="is a pickle, which may contain code"):
        load_saved_model(folder)
