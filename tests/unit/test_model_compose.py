"""Models of separate pretrained parts."""

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    Dinov2Config,
    Dinov2Model,
    Qwen2Config,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from llava_av.media.clip import Clip
from llava_av.model import load_model
from llava_av.model.compose import compose_model
from llava_av.model.files import ModelFilesError
from llava_av.model.tokenizer import CHAT_TEMPLATE, train_tokenizer
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


@pytest.fixture(scope="module", params=["clip", "siglip", "dinov2"])
def vision(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(1)
    made = {
        "clip": lambda: CLIPModel(CLIPConfig(vision_config=_TOWER, text_config=_TINY | {"vocab_size": 20})),
        "siglip": lambda: SiglipVisionModel(SiglipVisionConfig(**_TOWER)),
        "dinov2": lambda: Dinov2Model(Dinov2Config(**_TOWER, mlp_ratio=2)),
    }[request.param]()
    made.save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(
        folder
    )
    return folder


def test_the_parts_keep_their_weights_and_the_joints_are_reproducible(language, vision, audio, tmp_path):
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


def test_a_composed_model_sees_hears_and_learns(language, vision, audio, tmp_path):
    compose_model(language, tmp_path / "model", vision=vision, audio=audio)
    model, processor = load_model(tmp_path / "model")
    media = [clip(frames=2), Clip(images_nhwc=(image(size=48),)), Clip()]
    batch = processor.collate([processor.encode(TURNS, one) for one in media])
    assert batch["attention_mask"].sum(1).tolist() == [processor.count_tokens(TURNS, one) for one in media]
    model.train()
    model(**batch).loss.backward()
    assert model.vision_projector.linear_1.weight.grad.any()
    assert model.audio_projector.linear_1.weight.grad.any()


def test_language_alone_and_unknown_towers_are_refused(language, audio, tmp_path):
    with pytest.raises(ModelFilesError, match="name --vision or --audio"):
        compose_model(language, tmp_path / "model")
    with pytest.raises(ValueError, match="unknown vision tower 'wav2vec2'"):
        compose_model(language, tmp_path / "model", vision=audio)
    with pytest.raises(ValueError, match="unknown audio tower 'qwen2'"):
        compose_model(language, tmp_path / "model", audio=language)
