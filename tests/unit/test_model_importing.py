"""Imported models against transformers' own: the same positions, logits and tokens."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, AutoProcessor

from llava_av.media.clip import Clip, Video
from llava_av.model import LlavaAvProcessor, load_saved_model
from llava_av.model.conversion.importing import import_model
from llava_av.model.files.reading import ModelFilesError
from tests.audio_towers import FAMILIES as AUDIO_FAMILIES
from tests.audio_towers import tiny_audio_model
from tests.llava_samples import FAMILIES, noise_frames, noise_image, write_audio_tower, write_llava
from tests.model_samples import waveform

ASKED = {"type": "text", "text": "What is shown here?"}
SIZES = [(40, 40), (30, 100), (100, 30), (64, 41), (200, 150)]
WORST = 1e-4
"""Observed: the logits (up to 1.4) are equal bit for bit."""


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request, tmp_path_factory):
    """Return transformers' model and processor of a family, and the imported ones."""
    root = tmp_path_factory.mktemp(request.param)
    source = write_llava(request.param, root / "source", max_shard_size="100KB")
    import_model(source, root / "target")
    theirs = AutoModelForImageTextToText.from_pretrained(source), AutoProcessor.from_pretrained(source)
    ours = AutoModelForImageTextToText.from_pretrained(root / "target")
    return request.param, theirs, (ours, AutoProcessor.from_pretrained(root / "target"))


def chat(*kinds, text=ASKED):
    return [{"role": "user", "content": [*({"type": kind} for kind in kinds), text]}]


def compare(pair, chats, **media):
    """Make the same call on both sides; return the inputs of ours."""
    _, (their_model, their_processor), (model, processor) = pair
    batched = isinstance(chats[0], list)
    options = {"return_tensors": "pt", "padding": batched, **media}
    if batched:
        options["padding_side"] = "left"
    rendered = [
        p.apply_chat_template(chats, add_generation_prompt=True) for p in (their_processor, processor)
    ]
    assert rendered[0] == rendered[1]
    theirs, ours = their_processor(text=rendered[0], **options), processor(text=rendered[1], **options)
    assert theirs["input_ids"].tolist() == ours["input_ids"].tolist()
    with torch.no_grad():
        expected, logits = their_model(**theirs).logits, model(**ours).logits
    kept = ours["attention_mask"].bool()
    assert (logits - expected)[kept].abs().max() <= WORST
    output = [
        m.generate(**inputs, max_new_tokens=6, do_sample=False)
        for m, inputs in ((their_model, theirs), (model, ours))
    ]
    assert output[0].tolist() == output[1].tolist()
    return ours


def test_text_alone(pair):
    compare(pair, chat())


@pytest.mark.parametrize("size", SIZES)
def test_one_image(pair, size):
    compare(pair, chat("image"), images=[noise_image(*size)])


def test_several_images(pair):
    images = [noise_image(*size, seed) for seed, size in enumerate(SIZES[:3])]
    compare(pair, chat("image", "image", "image"), images=[images])


def test_a_batch_of_rows_with_and_without_images(pair):
    images = [[noise_image(*SIZES[0])], [noise_image(*SIZES[1]), noise_image(*SIZES[2])]]
    # transformers' LLaVA-NeXT takes a batch of rows as a flat list
    flat = pair[0] == "llava_next_video"
    compare(
        pair,
        [chat("image"), chat("image", "image")],
        images=[image for row in images for image in row] if flat else images,
    )


@pytest.mark.parametrize("frames", [1, 4])
def test_a_video(pair, frames):
    if pair[0] in ("llava", "llava_next"):
        with pytest.raises(ValueError, match="video input does not fit the model, which accepts image"):
            pair[2][1](text="", videos=[noise_frames(frames)])
    else:
        compare(pair, chat("video"), videos=[noise_frames(frames)])


def test_a_batch_of_a_video_an_image_and_text(pair):
    kinds = ("image",) if pair[0] in ("llava", "llava_next") else ("image", "video")
    videos = {"videos": [noise_frames(3)]} if "video" in kinds else {}
    compare(pair, [*(chat(kind) for kind in kinds), chat()], images=[[noise_image(*SIZES[1])]], **videos)


def test_a_decoded_clip_takes_the_positions_of_a_call(pair):
    _, _, (model, processor) = pair
    images = tuple(noise_image(*size, seed) for seed, size in enumerate(SIZES[:2]))
    for shown in (images[:1], images):
        clip = Clip(images_nhwc=shown)
        encoded = processor.encode(
            [("human", "<image>" * len(shown) + "\nWhat is shown here?")], clip, reply=True
        )
        text = processor.apply_chat_template(chat(*["image"] * len(shown)), add_generation_prompt=True)
        inputs = processor(text=text, images=[list(shown)], return_tensors="pt")
        batch = processor.collate([encoded])
        assert batch["input_ids"].tolist() == inputs["input_ids"].tolist()
        del batch["labels"]
        with torch.no_grad():
            torch.testing.assert_close(model(**batch).logits, model(**inputs).logits, atol=WORST, rtol=0)


@pytest.fixture(scope="module")
def onevision(tmp_path_factory):
    return write_llava("llava_onevision", tmp_path_factory.mktemp("onevision") / "source")


@pytest.fixture(scope="module")
def tower(tmp_path_factory):
    return write_audio_tower(tmp_path_factory.mktemp("audio"))


def test_an_audio_tower_keeps_its_weights_and_its_connector_is_reproducible(onevision, tower, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        import_model(onevision, tmp_path / name, audio=tower, seed=seed)
    first, second, other = (load_saved_model(tmp_path / name)[0].state_dict() for name in "abc")
    assert all(torch.equal(first[name], second[name]) for name in first)
    fresh = {name for name in first if not torch.equal(first[name], other[name])}
    assert fresh == {"audio_projector.linear_1.weight", "audio_projector.linear_2.weight"}
    published = load_file(tower / "model.safetensors")
    kept = "encoder.layers.0.attention.k_proj.weight"
    assert torch.equal(first[f"audio_tower.model.{kept}"], published[kept])


def test_a_model_with_an_added_audio_tower_keeps_its_outputs_and_takes_audio(onevision, tower, tmp_path):
    import_model(onevision, tmp_path / "deaf")
    import_model(onevision, tmp_path / "without_vision", audio=tower)
    model, processor = load_saved_model(tmp_path / "without_vision")
    deaf, deaf_processor = load_saved_model(tmp_path / "deaf")
    text = processor.apply_chat_template(chat("image"), add_generation_prompt=True)
    inputs = [
        p(text=text, images=[noise_image(40, 40)], return_tensors="pt") for p in (processor, deaf_processor)
    ]
    rows = deaf.config.text_config.vocab_size
    torch.testing.assert_close(
        model(**inputs[0]).logits[..., :rows], deaf(**inputs[1]).logits, atol=WORST, rtol=0
    )
    heard = chat("video", "audio")
    text = processor.apply_chat_template(heard, add_generation_prompt=True)
    inputs = processor(text=text, videos=[noise_frames(2)], audio=[waveform()], return_tensors="pt")
    output = model.generate(**inputs, max_new_tokens=3, do_sample=False)
    assert output.shape[1] == inputs["input_ids"].shape[1] + 3
    watched = Video(
        frames_nhwc=np.zeros((2, 32, 32, 3), np.uint8), frame_times_s=(0.2, 0.7), audio=waveform()
    )
    turns = [("human", "<video>\nWhat is shown here?"), ("gpt", "a cat")]
    assert model(**processor.collate([processor.encode(turns, Clip(videos=(watched,)))])).loss.isfinite()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("model.multi_modal_projector.linear_1.bias", None), "missing in .*linear_1.bias"),
        (lambda w: w.update({"model.vision_tower.extra": torch.zeros(1)}), "left over in .*extra"),
        (
            lambda w: w.update({"model.multi_modal_projector.linear_1.bias": torch.zeros(3)}),
            "of another size in .*linear_1.bias",
        ),
    ],
    ids=["missing", "left over", "another size"],
)
def test_weights_that_do_not_fit_are_named(onevision, tmp_path, change, message):
    source = shutil.copytree(onevision, tmp_path / "source")
    weights = load_file(source / "model.safetensors")
    prefix = "" if any(name.startswith("model.") for name in weights) else "model."
    named = {prefix + name: tensor for name, tensor in weights.items()}
    change(named)
    save_file({name.removeprefix(prefix): t for name, t in named.items()}, source / "model.safetensors")
    with pytest.raises(ModelFilesError, match=message):
        import_model(source, tmp_path / "target")
    assert not (tmp_path / "target").exists()


def test_a_source_of_another_kind_and_a_target_in_use_are_rejected(onevision, tower, tmp_path):
    with pytest.raises(ModelFilesError, match="model_type=wav2vec2, must be one of llava, "):
        import_model(tower, tmp_path / "target")
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").touch()
    with pytest.raises(ModelFilesError, match="is not empty"):
        import_model(onevision, tmp_path / "used")
    with pytest.raises(ModelFilesError, match="is not a folder"):
        import_model(onevision, tmp_path / "used" / "file")
    with pytest.raises(ModelFilesError, match=r"has no config\.json"):
        import_model(tmp_path / "nowhere", tmp_path / "target")


def test_the_model_says_what_it_was_made_of(onevision, tmp_path):
    import_model(onevision, tmp_path / "target")
    config = json.loads((tmp_path / "target" / "config.json").read_text())
    assert config["architectures"] == ["LlavaAvForConditionalGeneration"]
    assert config["audio_config"] is None
    assert not hasattr(LlavaAvProcessor.from_pretrained(tmp_path / "target"), "feature_extractor")


@pytest.mark.parametrize("family", AUDIO_FAMILIES)
def test_a_tower_of_any_family_is_added_as_it_was_published(onevision, tmp_path, family):
    """The features equal those of transformers' model and feature extractor bit for bit."""
    published, extractor = tiny_audio_model(family)
    published.save_pretrained(tmp_path / "audio")
    extractor.save_pretrained(tmp_path / "audio")
    import_model(onevision, tmp_path / "target", audio=tmp_path / "audio")
    model, processor = load_saved_model(tmp_path / "target")
    heard = waveform(samples=16_000)
    inputs = processor(text="<audio>", audio=[heard], return_tensors="pt")
    encoder = published.get_encoder() if family == "whisper" else published
    with torch.no_grad():
        taken = extractor(heard, sampling_rate=16_000, return_tensors="pt")
        expected = encoder(taken[extractor.model_input_names[0]]).last_hidden_state[0]
        values = inputs["audio_values"]
        features = model.audio_tower([values if family == "whisper" else values[0]], [16_000])[0]
        torch.testing.assert_close(features, expected[: len(features)], atol=1e-6, rtol=0)
        assert model(**inputs).logits.isfinite().all()
    tokens = (inputs["input_ids"] == model.config.audio_token_id).sum()
    assert tokens == model.token_counts.audio_tokens(16_000)


def test_settings_change_what_the_weights_do_not_settle(onevision, tower, tmp_path):
    changes = {"resampler": "qformer", "resampler_options": {"queries": 2}, "chunk_s": 1.0, "max_tokens": 500}
    import_model(onevision, tmp_path / "model", audio=tower, changes=changes)
    model, processor = load_saved_model(tmp_path / "model")
    assert (model.config.chunk_s, model.config.max_tokens) == (1.0, 500)
    assert processor.token_counts.frame_tokens() == 2
    plain = import_model(onevision, tmp_path / "plain", audio=tower)
    assert (plain.resampler, plain.chunk_s) == ("spatial_pool", None)
    kept, before = (load_file(tmp_path / name / "model.safetensors") for name in ("model", "plain"))
    assert all(torch.equal(kept[name], before[name]) for name in before if "audio" not in name)
    with pytest.raises(ModelFilesError, match="there is no setting 'vision_projector'"):
        import_model(onevision, tmp_path / "other", changes={"vision_projector": "linear"})
