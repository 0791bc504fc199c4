"""Integration with transformers: Auto classes, generate, checkpointing, attention, adapters."""

import copy

import numpy as np
import peft
import pytest
import torch
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from llava_av.media.clip import Clip
from llava_av.model import LlavaAvConfig, LlavaAvForConditionalGeneration, LlavaAvProcessor
from llava_av.model.media_inputs import MediaInputs
from tests.model_samples import clip, image, tiny_model, waveform

TURNS = [("human", "Which colour is shown?"), ("gpt", "red")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    model, processor = tiny_model()
    model.save_pretrained(path)
    processor.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def parts(folder):
    model = AutoModelForImageTextToText.from_pretrained(folder)
    return model, AutoProcessor.from_pretrained(folder)


def batch_of(processor, *clips):
    return processor.collate([processor.encode(TURNS, each) for each in clips])


def prompts(processor):
    batch = processor.collate(
        [processor.encode(TURNS[:1], each, reply=True) for each in (clip(0), Clip(), clip(1, frames=2))],
        left=True,
    )
    del batch["labels"]
    return batch


def conversation(*kinds):
    content = [*({"type": kind} for kind in kinds), {"type": "text", "text": "Which colour is shown?"}]
    return [{"role": "user", "content": content}]


def test_the_auto_classes_know_the_model(folder, parts):
    model, processor = parts
    assert isinstance(AutoConfig.from_pretrained(folder), LlavaAvConfig)
    assert isinstance(model, LlavaAvForConditionalGeneration)
    assert isinstance(processor, LlavaAvProcessor)
    assert {path.suffix for path in folder.glob("model*")} == {".safetensors"}


def test_a_processor_that_was_saved_by_itself_is_whole(tmp_path, parts):
    _, processor = parts
    processor.save_pretrained(tmp_path)
    again = AutoProcessor.from_pretrained(tmp_path)
    text = again.apply_chat_template(conversation("image"))
    inputs = again(text=text, images=image(), return_tensors="pt")
    expected = processor(text=text, images=image(), return_tensors="pt")
    assert inputs["input_ids"].tolist() == expected["input_ids"].tolist()


@pytest.mark.parametrize("side", ["left", "right"])
def test_options_reach_the_tokenizer_and_both_processors(folder, tmp_path, side):
    mean = (0.1, 0.2, 0.3)
    (tmp_path / "inner").symlink_to(folder)
    again = AutoProcessor.from_pretrained(tmp_path, padding_side=side, image_mean=mean, subfolder="inner")
    rows = again(text=["Which colour", "red"], padding=True)["attention_mask"]
    assert rows[1][0 if side == "left" else -1] == 0
    assert (again.image_processor.image_mean, again.video_processor.image_mean) == (mean, mean)


def test_a_call_gives_what_a_decoded_clip_gives(parts):
    """The largest observed difference of pixels is 6e-8: transformers normalises in another order."""
    model, processor = parts
    text = processor.apply_chat_template(conversation("video", "audio"), add_generation_prompt=True)
    shown, heard = clip(samples=None).videos[0], waveform()
    called = processor(text=text, videos=[shown.frames_nhwc], audio=[heard], return_tensors="pt")
    encoded = processor.encode(
        [("human", "<video>\n<audio>\nWhich colour is shown?")],
        Clip(videos=(shown,), audios=(heard,)),
        reply=True,
    )
    batch = processor.collate([encoded])
    assert called["input_ids"].tolist() == batch["input_ids"].tolist()
    frames = MediaInputs.from_arguments(batch).normalised_frames()
    torch.testing.assert_close(called["pixel_values_videos"].flatten(0, 1), frames, atol=1e-6, rtol=0)
    assert torch.equal(called["audio_values"], batch["audio_values"])
    del batch["labels"]
    torch.testing.assert_close(model(**called).logits, model(**batch).logits, atol=1e-4, rtol=0)


def test_a_chat_with_media_in_it_is_tokenised_in_one_call(parts):
    model, processor = parts
    chat = conversation("image")
    chat[0]["content"][0]["image"] = image()
    inputs = processor.apply_chat_template(
        chat, tokenize=True, return_dict=True, return_tensors="pt", add_generation_prompt=True
    )
    tokens = (inputs["input_ids"] == model.config.image_token_id).sum()
    assert tokens == model.token_counts.image_tokens((32, 32))
    assert model.generate(**inputs, max_new_tokens=2).shape[1] == inputs["input_ids"].shape[1] + 2


@pytest.mark.parametrize(
    ("kind", "media", "message"),
    [
        ("image", {"images": [np.zeros((32, 32, 3), np.uint8)] * 2}, "1 .* tokens and 2 images"),
        ("video", {}, "1 .* tokens in the text but no videos"),
        ("video", {"videos": [np.zeros((0, 32, 32, 3), np.uint8)]}, "0 frames"),
        ("audio", {"audio": [np.zeros(0, np.float32)]}, "audio of 0 samples"),
        ("audio", {"audio": [np.full(16_000, np.nan, np.float32)]}, "16000 of 16000 audio samples"),
        ("audio", {"audio": [np.zeros(16_000, np.float32)], "sampling_rate": 8_000}, "8000 Hz.*16000 Hz"),
    ],
)
def test_bad_input_is_rejected_with_both_counts(parts, kind, media, message):
    _, processor = parts
    with pytest.raises(ValueError, match=message):
        processor(text=processor.apply_chat_template(conversation(kind)), return_tensors="pt", **media)


def test_the_cache_changes_no_token_and_beams_share_their_media(parts):
    model, processor = parts
    inputs = prompts(processor)
    cached, uncached, beams = (
        model.generate(**inputs, max_new_tokens=6, do_sample=False, **options)
        for options in ({}, {"use_cache": False}, {"num_beams": 2, "num_return_sequences": 2})
    )
    assert torch.equal(cached, uncached)
    assert torch.equal(cached[:, : inputs["input_ids"].shape[1]], inputs["input_ids"])
    assert len(beams) == 2 * len(cached)


def test_sampling_follows_the_seed(parts):
    model, processor = parts
    output = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        output.append(model.generate(**prompts(processor), max_new_tokens=8, do_sample=True, temperature=5.0))
    assert torch.equal(output[0], output[1])
    assert not torch.equal(output[0], output[2])


def test_several_replies_are_sampled_for_each_row(parts):
    model, processor = parts
    inputs = prompts(processor)
    torch.manual_seed(0)
    output = model.generate(
        **inputs, max_new_tokens=6, do_sample=True, temperature=5.0, num_return_sequences=3
    )
    rows, length = inputs["input_ids"].shape
    assert torch.equal(output[:, :length], inputs["input_ids"].repeat_interleave(3, 0))
    assert len({tuple(row) for row in output[:3, length:].tolist()}) > 1
    assert len(output) == 3 * rows


def test_kept_logits_are_the_last_ones(parts):
    model, processor = parts
    batch = batch_of(processor, clip())
    del batch["labels"]
    torch.testing.assert_close(
        model(**batch, logits_to_keep=2).logits, model(**batch).logits[:, -2:], atol=1e-5, rtol=0
    )


def test_eager_attention_gives_what_sdpa_gives(folder, parts):
    """The largest observed difference is 2e-5 in a summed loss of about 25."""
    model, processor = parts
    eager = LlavaAvForConditionalGeneration.from_pretrained(folder, attn_implementation="eager")
    assert {
        config._attn_implementation for config in (eager.config.text_config, eager.config.vision_config)
    } == {"eager"}
    batch = batch_of(processor, clip(0), clip(1, frames=2))
    torch.testing.assert_close(eager(**batch).loss_sums, model(**batch).loss_sums, atol=1e-3, rtol=0)


def test_gradients_are_the_same_when_activations_are_not_kept(folder, parts):
    """Bit for bit, as seen: the same kernels run twice."""
    _, processor = parts
    gradients = []
    for checkpointed in (False, True):
        model = LlavaAvForConditionalGeneration.from_pretrained(folder).train()
        if checkpointed:
            model.activation_checkpointing_enable()
            assert model.is_activation_checkpointing
        model(**batch_of(processor, clip())).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-6, rtol=1e-4)


def test_dtype_and_device_map_are_taken(folder, parts):
    _, processor = parts
    model = LlavaAvForConditionalGeneration.from_pretrained(
        folder, dtype=torch.bfloat16, device_map={"": "cpu"}
    )
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert model(**batch_of(processor, clip())).loss.isfinite()


def test_parts_may_lie_on_several_devices(folder, parts, tmp_path):
    model, processor = parts
    batch = batch_of(processor, clip())
    split = LlavaAvForConditionalGeneration.from_pretrained(
        folder,
        device_map="auto",
        max_memory={"cpu": "2MB"},
        offload_folder=tmp_path,
    )
    assert {"AudioTower", "Qwen3DecoderLayer"} <= set(split._no_split_modules)
    assert set(split.hf_device_map.values()) == {"cpu", "disk"}
    with torch.no_grad():
        assert torch.equal(split(**batch).loss_sums, model(**batch).loss_sums)


@pytest.mark.parametrize("missing", ["audio", "vision"])
def test_a_model_may_lack_a_part(missing, tmp_path):
    model, processor = tiny_model(**{f"model__{missing}": None})
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    model = LlavaAvForConditionalGeneration.from_pretrained(tmp_path)
    processor = LlavaAvProcessor.from_pretrained(tmp_path)
    assert not [name for name, _ in model.named_parameters() if missing in name]
    there = clip(samples=None) if missing == "audio" else Clip(audios=(waveform(),))
    assert model(**batch_of(processor, there)).loss.isfinite()
    lacking = Clip(audios=(waveform(),)) if missing == "audio" else Clip(images_nhwc=(image(),))
    with pytest.raises(
        ValueError, match=r"1 (audio|image) files do not fit the model, which accepts (image, video|audio)"
    ):
        processor.encode(TURNS, lacking)


def test_a_frozen_tower_stays_in_eval_mode():
    model, _ = tiny_model()
    model.vision_tower.requires_grad_(False)
    model.train()
    assert not model.vision_tower.training
    assert model.audio_tower.training
    assert model.vision_projector.training


def test_an_adapter_trains_what_its_target_names(folder, parts):
    _, processor = parts
    model = LlavaAvForConditionalGeneration.from_pretrained(folder)
    target = r"language_model\..*\.(q_proj|v_proj)"
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=target))
    trained = [name for name, parameter in adapted.named_parameters() if parameter.requires_grad]
    assert len(trained) == 4 * 2 * 2
    assert all("language_model" in name for name in trained)
    adapted.train()
    adapted(**batch_of(processor, clip())).loss.backward()
    assert all(p.grad is not None for p in adapted.parameters() if p.requires_grad)
    assert not model.vision_tower.training


def test_an_adapter_is_saved_loaded_and_merged(folder, parts, tmp_path):
    """The largest observed difference is 5e-7, of merged weights."""
    _, processor = parts
    batch = batch_of(processor, clip())
    settings = peft.LoraConfig(r=2, target_modules=r"language_model\..*\.(q_proj|v_proj)")
    adapted = peft.get_peft_model(LlavaAvForConditionalGeneration.from_pretrained(folder), settings)
    torch.manual_seed(0)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            # fresh adapters change nothing
            parameter.data.normal_()
    expected = adapted.eval()(**batch).loss
    assert abs(expected.item() - parts[0](**batch).loss.item()) > 1e-3
    adapted.save_pretrained(tmp_path / "adapter")
    base = LlavaAvForConditionalGeneration.from_pretrained(folder)
    loaded = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    assert torch.equal(loaded(**batch).loss, expected)
    loaded.merge_and_unload().save_pretrained(tmp_path / "merged")
    merged = LlavaAvForConditionalGeneration.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(merged(**batch).loss, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("reentrant", [True, False])
def test_activations_are_computed_again_in_either_way(folder, parts, reentrant):
    _, processor = parts
    model = LlavaAvForConditionalGeneration.from_pretrained(folder).train()
    plain = {name for name, p in model.named_parameters() if p.requires_grad}
    model.activation_checkpointing_enable({"use_reentrant": reentrant})
    model(**batch_of(processor, clip())).loss.backward()
    lacking = {name for name, p in model.named_parameters() if p.requires_grad and p.grad is None}
    assert plain
    assert lacking == {"audio_tower.model.masked_spec_embed"} & plain


def test_the_language_model_runs_quantised(parts):
    """Eight-bit weights by torchao; the loss moves by less than 0.1 (0.004 as seen)."""
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    model, processor = parts
    batch = batch_of(processor, clip())
    quantised = copy.deepcopy(model)
    quantize_(quantised.language_model.get_decoder(), Int8WeightOnlyConfig())
    weight = quantised.language_model.get_decoder().layers[0].self_attn.q_proj.weight
    assert type(weight) is not type(model.language_model.get_decoder().layers[0].self_attn.q_proj.weight)
    assert abs(quantised(**batch).loss.item() - model(**batch).loss.item()) < 0.1
    inputs = prompts(processor)
    assert quantised.generate(**inputs, max_new_tokens=2).shape[1] == inputs["input_ids"].shape[1] + 2
