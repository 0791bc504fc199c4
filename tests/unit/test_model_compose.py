"""Models composed of separately trained parts."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    Qwen2Config,
    Siglip2Config,
    Siglip2Model,
    SiglipImageProcessor,
    SiglipVisionConfig,
    SiglipVisionModel,
)
from typer.testing import CliRunner

from llava_av.cli.app import app
from llava_av.media.clip import Clip
from llava_av.model import load_saved_model
from llava_av.model.conversion.composing import compose_model
from llava_av.model.files.reading import ModelFilesError
from llava_av.model.sequence.tokenizer import CHAT_TEMPLATE, train_tokenizer
from tests.llava_samples import write_audio_tower
from tests.model_samples import clip, image

TURNS = [("human", "Which colour is shown?"), ("gpt", "red")]
_TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
_TOWER = _TINY | {"image_size": 32, "patch_size": 8, "intermediate_size": 48}


@pytest.fixture(scope="module")
def language(tmp_path_factory):
    folder = tmp_path_factory.mktemp("language")
    tokenizer = train_tokenizer(["Which colour is shown? red"], 300)
    tokenizer.chat_template = CHAT_TEMPLATE
    torch.manual_seed(0)
    shape = _TINY | {"intermediate_size": 48, "num_key_value_heads": 2, "tie_word_embeddings": True}
    config = Qwen2Config(**shape, vocab_size=len(tokenizer))
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def audio(tmp_path_factory):
    return write_audio_tower(tmp_path_factory.mktemp("audio"))


@pytest.fixture(scope="module")
def tower(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tower")
    SiglipVisionModel(SiglipVisionConfig(**_TOWER)).save_pretrained(folder)
    SiglipImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=["clip", "siglip", "siglip2", "dinov2", "dinov2_with_registers"])
def vision(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(1)
    made = {
        "clip": lambda: CLIPModel(CLIPConfig(vision_config=_TOWER, text_config=_TINY | {"vocab_size": 20})),
        "siglip": lambda: SiglipVisionModel(SiglipVisionConfig(**_TOWER)),
        "siglip2": lambda: Siglip2Model(
            Siglip2Config(vision_config=_TOWER | {"num_patches": 16}, text_config=_TINY | {"vocab_size": 20})
        ),
        "dinov2": lambda: Dinov2Model(Dinov2Config(**_TOWER, mlp_ratio=2)),
        "dinov2_with_registers": lambda: Dinov2WithRegistersModel(
            Dinov2WithRegistersConfig(**_TOWER, mlp_ratio=2, num_register_tokens=3)
        ),
    }[request.param]()
    made.save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(
        folder
    )
    return folder


def test_the_parts_keep_their_weights_and_the_connectors_are_reproducible(language, vision, audio, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        compose_model(language, tmp_path / name, vision=vision, audio=audio, seed=seed, chunk_s=0.5)
    first, second, other = (load_file(tmp_path / name / "model.safetensors") for name in "abc")
    assert all(torch.equal(first[name], second[name]) for name in first)
    fresh = {name.split(".")[0] for name in first if not torch.equal(first[name], other[name])}
    assert fresh == {"vision_projector", "audio_projector"}
    spoken = load_file(language / "model.safetensors")["model.embed_tokens.weight"]
    embeddings = first["language_model.model.embed_tokens.weight"]
    assert torch.equal(embeddings[: len(spoken)], spoken)
    assert len(embeddings) == len(AutoTokenizer.from_pretrained(language)) + 3


def test_a_composed_model_takes_all_modalities_and_trains(language, vision, audio, tmp_path):
    compose_model(language, tmp_path / "model", vision=vision, audio=audio)
    model, processor = load_saved_model(tmp_path / "model")
    media = [clip(frames=2), Clip(images_nhwc=(image(size=48),)), Clip()]
    batch = processor.collate([processor.encode(TURNS, one) for one in media])
    assert batch["attention_mask"].sum(1).tolist() == [processor.measure(TURNS, one).tokens for one in media]
    model.train()
    model(**batch).loss.backward()
    assert model.vision_projector.linear_1.weight.grad.any()
    assert model.audio_projector.linear_1.weight.grad.any()


def test_a_language_model_without_towers_and_unknown_towers_are_rejected(language, audio, tmp_path):
    with pytest.raises(ModelFilesError, match="give --vision, --audio or both"):
        compose_model(language, tmp_path / "model")
    with pytest.raises(ValueError, match="unknown vision tower 'wav2vec2'"):
        compose_model(language, tmp_path / "model", vision=audio)
    with pytest.raises(ValueError, match="unknown audio tower 'qwen2'"):
        compose_model(language, tmp_path / "model", audio=language)


def test_settings_of_the_connectors_and_of_the_sequence(language, audio, tower, tmp_path):
    options = (
        "resampler=perceiver",
        'resampler_options={"queries": 3, "layers": 1}',
        "audio_downsampler=convolution",
        "audio_downsampler_options={kernel: 5, stride: 4}",
        "video_newline=one",
        "timestamps=true",
        "chunk_s=0.5",
        "max_frames=3",
    )
    parts = {"language": language, "vision": tower, "audio": audio}
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        given = ["model", "compose", str(tmp_path / name), "--seed", str(seed), "--json"]
        given += [text for part, folder in parts.items() for text in (f"--{part}", str(folder))]
        given += [text for option in options for text in ("--set", option)]
        done = CliRunner().invoke(app, given, catch_exceptions=False)
        named = {part: str(folder) for part, folder in parts.items()}
        assert json.loads(done.stdout) == {"folder": str(tmp_path / name), **named}
    first, second, other = (load_file(tmp_path / name / "model.safetensors") for name in "abc")
    assert all(torch.equal(first[name], second[name]) for name in first)
    fresh = {name.split(".")[0] for name in first if not torch.equal(first[name], other[name])}
    joints = {"resampler", "vision_projector", "newline", "audio_downsampler", "audio_projector"}
    assert fresh == joints
    model, processor = load_saved_model(tmp_path / "a")
    assert (model.config.max_frames, model.config.timestamps, model.config.chunk_s) == (3, True, 0.5)
    assert processor.token_counts.frame_tokens() == 3
    model.train()
    model(**processor.collate([processor.encode(TURNS, clip(frames=2))])).loss.backward()
    assert model.newline.grad.any()
    assert model.resampler.queries.grad.any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"resampler_option": {}},
            "no setting 'resampler_option': one of audio_downsampler, .*video_newline",
        ),
        ({"base": "x"}, "no setting 'base': one of"),
        ({"over_limit": "cut"}, "settings: over_limit: .*'refuse', .*got 'cut'"),
        ({"max_frames": 0}, "settings: max_frames: .*got 0"),
        ({"resampler": "pool"}, "unknown resampler 'pool': one of"),
        ({"resampler_options": {"queries": 2}}, "spatial_pool has no option 'queries'"),
    ],
)
def test_settings_that_are_unknown_or_not_allowed_are_rejected_by_name(
    language, tower, tmp_path, changes, message
):
    with pytest.raises(ModelFilesError, match=message):
        compose_model(language, tmp_path / "model", vision=tower, changes=changes)
    assert not (tmp_path / "model").exists()


def test_a_part_of_another_kind_is_one_line(audio, tmp_path):
    given = ["model", "compose", str(tmp_path / "model"), "--language", str(audio), "--audio", str(audio)]
    with pytest.raises(
        ModelFilesError, match=r"audio.* has model_type=wav2vec2, but --language takes"
    ) as caught:
        CliRunner().invoke(app, given, catch_exceptions=False)
    assert "\n" not in str(caught.value)
    absent = CliRunner().invoke(app, [*given[:-1], str(tmp_path / "absent")])
    assert (absent.exit_code, "--audio" in absent.output) == (2, True)


def test_a_left_over_weight_of_a_tower_is_named(language, tower, tmp_path):
    folder = tmp_path / "tower"
    shutil.copytree(tower, folder)
    weights = load_file(folder / "model.safetensors")
    more = {"text_model.embeddings.weight": torch.zeros(2), "vision_model.more.weight": torch.zeros(2)}
    save_file(weights | more, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelFilesError, match=r"left over in .*tower: more\.weight$"):
        compose_model(language, tmp_path / "model", vision=folder)
