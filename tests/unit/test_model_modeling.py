"""Forward pass, gradients, generation and files of the model."""

import copy
import dataclasses

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Trainer, TrainingArguments, ViTConfig

from llava_av.media.clip import Clip
from llava_av.model import LlavaAvForConditionalGeneration, MediaInputs, MediaMismatchError, load_saved_model
from tests.model_samples import clip, image, tiny_model, waveform

TURNS = [("human", "Which colour is shown?"), ("gpt", "red")]


def batch_of(processor, *clips, left=False):
    return processor.collate([processor.encode(TURNS, each) for each in clips], left=left)


RESAMPLERS = {
    "spatial_pool": {"stride": 2},
    "perceiver": {"queries": 4},
    "qformer": {"queries": 4},
    "masked_drop": {"drop_share": 0.5},
    "identity": {},
}


@pytest.mark.parametrize("resampler", RESAMPLERS)
@pytest.mark.parametrize("chunk_s", [0.5, None])
def test_gradients_reach_every_parameter(resampler, chunk_s):
    model, processor = tiny_model(
        model__resampler=resampler, model__resampler_options=RESAMPLERS[resampler], model__chunk_s=chunk_s
    )
    model.train()
    model(**batch_of(processor, clip(0), clip(1))).loss.backward()
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert [name for name, parameter in trained.items() if parameter.grad is None] == []
    assert [name for name, parameter in trained.items() if not parameter.grad.any()] == []
    assert {name for name, _ in model.named_parameters()} - set(trained) == {
        "audio_tower.model.masked_spec_embed"
    }


@pytest.mark.parametrize("chunk_s", [0.5, None])
@pytest.mark.parametrize("newline", ["none", "one", "frame", "grid"])
def test_slow_and_fast_frames_with_times_train_every_part_in_order(chunk_s, newline):
    """Slow and fast frames have other numbers of tokens; each frame still changes its own tokens only."""
    options = {"every": 2, "stride": 4}
    model, processor = tiny_model(
        model__slow_fast=options, model__timestamps=True, model__chunk_s=chunk_s, model__video_newline=newline
    )
    one = clip(frames=5)
    encoded = processor.encode(TURNS, one)
    batch = processor.collate([encoded])
    counts = processor.token_counts.video_frame_tokens(5)
    tokens = (batch["input_ids"] == model.config.video_token_id).sum()
    assert tokens == sum(counts) + (newline == "one")
    model.train()
    model(**batch).loss.backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None and p.requires_grad]
    model.eval()
    changed = dataclasses.replace(one.videos[0], frames_nhwc=one.videos[0].frames_nhwc.copy())
    changed.frames_nhwc[3] = 255 - changed.frames_nhwc[3]
    other = processor.collate([processor.encode(TURNS, Clip(videos=(changed,)))])
    names = ("pixel_values_videos", "frame_norm", "video_frames", "video_order")
    with torch.no_grad():
        inputs = [MediaInputs.from_arguments({n: b[n] for n in names}) for b in (batch, other)]
        features = [model.media_features(media).video[0] for media in inputs]
    moved = (features[0] - features[1]).abs().amax(1).gt(1e-4).nonzero()[:, 0].tolist()
    assert set(moved) <= set(range(sum(counts[:3]), sum(counts[:4])))
    assert moved
    prompt = processor.collate([processor.encode(TURNS[:1], one, reply=True)], left=True)
    del prompt["labels"]
    output = model.generate(**prompt, max_new_tokens=3, do_sample=False)
    assert output.shape[1] == prompt["input_ids"].shape[1] + 3


@pytest.mark.parametrize(
    "present", [Clip(), Clip(images_nhwc=(image(),)), Clip(audios=(waveform(),)), clip(samples=None)]
)
def test_every_encoder_gets_a_gradient_whatever_the_batch_lacks(present):
    model, processor = tiny_model()
    model.train()
    model(**batch_of(processor, present)).loss.backward()
    without = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []


def test_a_sample_does_not_depend_on_its_neighbours():
    """The largest observed difference is 2.4e-7 (another batch shape gives other kernels)."""
    model, processor = tiny_model()
    samples = [
        clip(0),
        clip(1, frames=2, samples=20_000),
        Clip(),
        clip(2, samples=None),
        Clip(audios=(waveform(),)),
    ]
    together = model(**batch_of(processor, *samples)).loss_sums
    apart = torch.cat([model(**batch_of(processor, each)).loss_sums for each in samples])
    torch.testing.assert_close(together, apart, atol=2e-5, rtol=0)


def test_the_answer_depends_on_video_and_on_audio():
    model, processor = tiny_model()
    whole, blind, deaf = (
        model(**batch_of(processor, each)).loss_sums.item()
        for each in (clip(), clip().without(video=True, audio=False), clip().without(video=False, audio=True))
    )
    assert len({round(value, 6) for value in (whole, blind, deaf)}) == 3


def test_generation_continues_as_the_forward_pass_predicts():
    model, processor = tiny_model()
    prompts = [processor.encode(TURNS[:1], each, reply=True) for each in (clip(0), Clip(), clip(1, frames=2))]
    inputs = processor.collate(prompts, left=True)
    inputs.pop("labels")
    new = model.generate(**inputs, max_new_tokens=4, do_sample=False)
    for prompt, tokens in zip(prompts, new[:, inputs["input_ids"].shape[1] :], strict=True):
        alone = processor.collate([prompt])
        alone.pop("labels")
        logits = model(**alone).logits
        assert int(logits[0, -1].argmax()) == int(tokens[0])


@pytest.mark.parametrize("shown", [clip(0), Clip()])
def test_a_placeholder_token_that_the_model_generates_is_text(shown):
    model, processor = tiny_model()
    inputs = processor.collate([processor.encode(TURNS[:1], shown, reply=True)], left=True)
    inputs.pop("labels")
    token = model.config.video_token_id

    def always(input_ids, scores):
        return torch.full_like(scores, -1e9).index_fill(1, torch.tensor([token]), 0.0)

    new = model.generate(**inputs, max_new_tokens=3, do_sample=False, logits_processor=[always])
    assert new[0, inputs["input_ids"].shape[1] :].tolist() == [token] * 3


def test_a_mismatch_of_placeholders_and_media_names_both_counts():
    model, processor = tiny_model()
    batch = batch_of(processor, clip(frames=2))
    place = (batch["input_ids"][0] == model.config.video_token_id).nonzero()[0]
    batch["input_ids"][0, place] = processor.tokenizer.eos_token_id
    with pytest.raises(MediaMismatchError, match="1 video placeholders but 2 video tokens"):
        model(**batch)


def test_a_saved_model_is_the_same_when_loaded(tmp_path):
    model, processor = tiny_model()
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded, loaded_processor = load_saved_model(tmp_path)
    batch = batch_of(processor, clip())
    again = batch_of(loaded_processor, clip())
    assert again["input_ids"].tolist() == batch["input_ids"].tolist()
    assert torch.equal(loaded(**again).loss_sums, model(**batch).loss_sums)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others():
    first, second, other = (tiny_model(seed=seed)[0].state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_each_row_needs_its_own_media():
    """One token too many in one row and one too few in the next have the right sum."""
    model, processor = tiny_model()
    batch = batch_of(processor, clip(0), clip(1))
    ids = batch["input_ids"]
    ids[0, (ids[0] != model.config.video_token_id).nonzero()[0]] = model.config.video_token_id
    ids[1, (ids[1] == model.config.video_token_id).nonzero()[0]] = processor.tokenizer.eos_token_id
    count = int((ids[1] == model.config.video_token_id).sum()) + 1
    message = rf"row 0 has {count + 1} video placeholders but its media have {2 * count} video tokens"
    with pytest.raises(MediaMismatchError, match=message):
        model(**batch)


def test_a_folder_without_a_weight_is_rejected_by_its_name(tmp_path):
    model, processor = tiny_model()
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    whole = load_file(file)
    name = next(one for one in whole if one.startswith("vision_projector.") and one.endswith("weight"))

    def load_with(weights):
        save_file(weights, file, metadata={"format": "pt"})
        for load in (load_saved_model, LlavaAvForConditionalGeneration.from_pretrained):
            load(tmp_path)

    load_with(whole)
    with pytest.raises(ValueError, match=f"weights are missing in .*: {name}$"):
        load_with({one: tensor for one, tensor in whole.items() if one != name})
    with pytest.raises(ValueError, match=r"weights are left over in .*: more\.weight$"):
        load_with({**whole, "more.weight": torch.zeros(2)})
    with pytest.raises(ValueError, match=rf"weights are of another size in .*: {name} \[3, 5\], not \["):
        load_with({**whole, name: torch.zeros(3, 5)})


def test_a_frozen_tower_stays_in_eval_mode_whatever_is_called():
    model, processor = tiny_model(model__trainable_parts=["vision_connector", "audio_connector", "language"])
    model.train()
    for tower in (model.vision_tower, model.audio_tower):
        tower.train()
        next(iter(tower.children())).train()
    model(**batch_of(processor, clip(0)))
    assert model.language_model.training
    for tower in (model.vision_tower, model.audio_tower):
        assert not any(module.training for module in tower.modules())


def test_an_unknown_vision_tower_is_rejected_by_name():
    config = copy.deepcopy(tiny_model()[0].config)
    config.vision_config = ViTConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2)
    with pytest.raises(ValueError, match="unknown vision tower 'vit': one of clip_vision_model, "):
        LlavaAvForConditionalGeneration(config)


class Batches(torch.utils.data.Dataset):
    def __init__(self, samples):
        self.samples = samples

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        return self.samples[index]


def test_the_trainer_of_transformers_accumulates_the_gradient_of_one_batch(tmp_path):
    samples = [
        ([("human", "Which colour is shown?"), ("gpt", answer)], clip(seed))
        for seed, answer in enumerate(["red", "Ein Ton, red and green", "green", "What do you hear?"])
    ]

    def trained(batch, steps):
        model, processor = tiny_model()
        model.zero_grad()
        before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
        arguments = TrainingArguments(
            tmp_path / str(batch),
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=steps,
            max_steps=1,
            optim="sgd",
            learning_rate=1.0,
            lr_scheduler_type="constant",
            max_grad_norm=0.0,
            use_cpu=True,
            report_to=[],
            save_strategy="no",
            remove_unused_columns=False,
            dataloader_num_workers=0,
            disable_tqdm=True,
        )
        trainer = Trainer(
            model,
            arguments,
            train_dataset=Batches(samples),
            data_collator=lambda several: processor.collate([processor.encode(*one) for one in several]),
        )
        trainer.train()
        return {name: weight.detach() - before[name] for name, weight in model.named_parameters()}

    at_once, in_parts = trained(4, 1), trained(1, 4)
    for name, moved in at_once.items():
        assert torch.allclose(moved, in_parts[name], rtol=1e-3, atol=1e-6), name
