"""Estimates against hand-computed values, published counts, and tiny models that are really trained."""

import re
import shlex
import shutil
import time
from collections import Counter

import pytest
import torch

from llava_av.cli.options import parsed_overrides
from llava_av.errors import UserError
from llava_av.model import IGNORE, base_model, fresh_model
from llava_av.model.conversion.importing import import_model
from llava_av.model.parts import recompute_activations, trainable_parts
from llava_av.model.token_loss import CHUNK
from llava_av.recipe import Recipe, TrainingRecipe
from llava_av.training.engines import build_engine
from llava_av.workflows.estimate.activations import Activations, GpuBatch, activations, peak_bytes
from llava_av.workflows.estimate.advice import GIB, DoesNotFitError, require_fit
from llava_av.workflows.estimate.estimating import Estimator, longest_batch
from llava_av.workflows.estimate.memory import checkpoint_bytes, gpu_memory
from llava_av.workflows.estimate.meta_model import ModelSize, PartSize, build_meta_model, model_size
from tests.llava_samples import write_audio_tower, write_llava
from tests.model_samples import TEXTS, clip, tiny_model, tiny_recipe

TURNS = [("human", "Which colour is shown? What do you hear?"), ("gpt", "red green")]
SEVEN_B = {
    "vision": {
        "model_type": "siglip_vision_model",
        "hidden_size": 1152,
        "num_hidden_layers": 27,
        "intermediate_size": 4304,
        "num_attention_heads": 16,
        "patch_size": 14,
    },
    "audio": {
        "model_type": "wav2vec2",
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "intermediate_size": 4096,
        "num_attention_heads": 16,
        "feat_extract_norm": "layer",
        "do_stable_layer_norm": True,
        "conv_bias": True,
    },
    "language": {
        "model_type": "qwen2",
        "hidden_size": 3584,
        "num_hidden_layers": 28,
        "intermediate_size": 18944,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "tie_word_embeddings": False,
    },
    "vocabulary_size": 152_064,
}


SIGLIP_2 = {
    "model_type": "siglip2_vision_model",
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "patch_size": 8,
    "intermediate_size": 48,
    "num_patches": 16,
    "vision_use_head": False,
}
WHISPER = {
    "model_type": "whisper",
    "d_model": 32,
    "encoder_layers": 2,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
    "num_mel_bins": 8,
    "max_source_positions": 100,
}
LANGUAGE = tiny_recipe().model.language
CONNECTORS = ["vision_connector", "audio_connector"]


def seven_b(**training) -> Recipe:
    training = {"steps": 1, "global_batch_size": 8, "num_processes": 8} | training
    return Recipe.model_validate(
        {"name": "seven-b", "model": SEVEN_B, "media": {"frame_size": 384}, "training": training}
    )


def with_vocabulary(recipe: Recipe, processor) -> Recipe:
    """Return the recipe with as many entries as the trained tokenizer has, which may be fewer."""
    return recipe.with_overrides({"model.vocabulary_size": len(processor.tokenizer)})


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"model__trainable_parts": CONNECTORS},
        {"model__audio": None, "model__resampler": "perceiver", "model__resampler_options": {"queries": 3}},
        {"model__vision": None},
        {"model__video_newline": "frame", "model__vision_feature_layer": -2},
    ],
    ids=["all", "projectors", "vision alone", "audio alone", "newline"],
)
def test_parameters_are_those_of_the_built_model(changes):
    recipe = tiny_recipe(**changes)
    model, processor = fresh_model(recipe, TEXTS)
    every, trained = Counter(), Counter()
    part_of = trainable_parts(model)
    for name, weight in model.named_parameters():
        every[part_of[name]] += weight.numel()
        trained[part_of[name]] += weight.numel() * weight.requires_grad
    size = model_size(build_meta_model(with_vocabulary(recipe, processor)))
    assert {part.name: part.parameters for part in size.parts} == every
    assert {part.name: part.trained for part in size.parts} == trained
    assert size.parameters == sum(every.values())


def test_a_model_of_seven_billion_has_the_published_parameters_and_takes_seconds():
    started = time.process_time()
    model = build_meta_model(seven_b())
    assert time.process_time() - started < 20

    def count(module: torch.nn.Module) -> int:
        return sum(weight.numel() for weight in module.parameters())

    assert count(model.language_model) == 7_615_616_512
    assert count(model.vision_tower) == 428_225_600
    assert count(model.audio_tower) == 315_438_720
    # transformers makes the vector for SpecAugment in memory.
    assert sum(weight.numel() for weight in model.parameters() if not weight.is_meta) <= 1024


def saved_bytes(model: torch.nn.Module, batch: dict) -> int:
    """Return the bytes that autograd really saves in a forward pass, beside the weights."""
    weights = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    storages = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            storages[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model(**batch).loss
    total = sum(storage.nbytes() for storage in storages.values())
    assert torch.isfinite(loss)
    return total


GEMMA = {**LANGUAGE, "model_type": "gemma2"}
LLAMA = {**LANGUAGE, "model_type": "llama", "num_key_value_heads": 2}


# Each tolerance follows the worst case measured: 0.02 %, the embeddings before media are put into them;
# SigLIP 2 computes the positions of each frame (0.5 %), Whisper copies once more per layer on a CPU (1.0 %).
@pytest.mark.parametrize(
    ("changes", "tolerance"),
    [
        ({}, 1e-3),
        ({"model__trainable_parts": CONNECTORS}, 1e-3),
        ({"model__trainable_parts": ["language"], "model__timestamps": True}, 1e-3),
        ({"model__vision": None, "model__trainable_parts": ["audio_tower", "audio_connector"]}, 1e-3),
        ({"model__language": LLAMA}, 1e-3),
        ({"model__language": GEMMA, "model__slow_fast": {"every": 2, "stride": 4}}, 1e-3),
        ({"model__vision": SIGLIP_2}, 6e-3),
        ({"model__audio": WHISPER}, 11e-3),
        ({"training__precision": "bf16"}, 11e-3),
        ({"training__activation_checkpointing": ["language"]}, 1e-3),
        ({"training__activation_checkpointing": ["vision_tower", "audio_tower", "language"]}, 1e-3),
    ],
    ids=[
        *("all", "projectors", "language", "audio", "Llama", "Gemma 2, slow-fast", "SigLIP 2", "Whisper"),
        *("bfloat16", "language again", "everything again"),
    ],
)
def test_activations_are_what_autograd_saves_in_a_real_forward_pass(changes, tolerance):
    recipe = tiny_recipe(**changes)
    model, processor = tiny_model(**changes)
    recomputed = recipe.training.activation_checkpointing
    recompute_activations(model.train(), recomputed)
    if recipe.training.precision == "bf16":
        # As the engines do, which keep buffers in float32.
        for weight in model.parameters():
            weight.data = weight.data.bfloat16()
    frames = 6 if recipe.model.vision else 0
    short = [("human", "Which colour?"), ("gpt", "red")]
    clips = [clip(number, frames=6, samples=24_000) for number in range(3)]
    encoded = [processor.encode(short if one is clips[0] else TURNS, one) for one in clips]
    tensors = processor.collate(encoded)
    batch = GpuBatch(
        samples=3,
        frames=frames,
        audio_samples=24_000,
        rows=3,
        row_tokens=tensors["input_ids"].shape[1],
        labelled_tokens=int((tensors["labels"][:, 1:] != IGNORE).sum()),
        packed=False,
    )
    stages = activations(build_meta_model(with_vocabulary(recipe, processor)), batch, recomputed)
    assert sum(one.kept for one in stages) == pytest.approx(saved_bytes(model, tensors), rel=tolerance)


def test_a_model_whose_activations_depend_on_values_is_one_line():
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
    recipe = tiny_recipe(model__language={**LANGUAGE, "model_type": "qwen3_moe", **experts})
    assert model_size(build_meta_model(recipe)).trained
    with pytest.raises(UserError, match="experts") as caught:
        Estimator().estimate(recipe)
    assert "\n" not in str(caught.value)


def test_packed_rows_save_no_mask():
    model = build_meta_model(tiny_recipe())
    padded = GpuBatch(
        samples=2, frames=2, audio_samples=16_000, rows=2, row_tokens=100, labelled_tokens=9, packed=False
    )
    packed = GpuBatch(**{**vars(padded), "packed": True})
    layers, rows, mask = 4, 2, 100 * 100 * 4
    saved = [activations(model, batch)[1].kept for batch in (padded, packed)]
    assert saved[0] - saved[1] == layers * rows * mask


def test_a_block_that_is_computed_again_takes_what_it_would_keep():
    model = build_meta_model(tiny_recipe())
    batch = GpuBatch(
        samples=2, frames=2, audio_samples=16_000, rows=2, row_tokens=100, labelled_tokens=9, packed=True
    )
    whole = activations(model, batch)
    again = activations(model, batch, ["language"])
    layers, states = 4, 2 * 100 * model.config.text_config.hidden_size * 4
    assert [one.again for one in whole] == [0, 0, 0]
    assert (again[0], again[2]) == (whole[0], whole[2])
    # A block that is computed again saves the states that it got, too. All blocks share the rotations of
    # their positions.
    assert whole[1].kept - again[1].kept == pytest.approx(layers * (again[1].again - states), rel=0.01)
    assert activations(model, batch) == whole


def test_logits_beyond_a_chunk_are_computed_again():
    model = build_meta_model(tiny_recipe())
    sizes = {"samples": 1, "frames": 2, "audio_samples": 16_000, "rows": 1, "row_tokens": 100, "packed": True}
    chunk, more = (
        activations(model, GpuBatch(**sizes, labelled_tokens=count))[2] for count in (CHUNK, 3 * CHUNK)
    )
    vocabulary, width = model.config.text_config.vocab_size, model.config.text_config.hidden_size
    assert chunk.again == 0
    assert chunk.kept >= 4 * CHUNK * vocabulary
    assert more.again == chunk.kept
    # The hidden states and the numbers of the targets.
    assert more.kept <= 3 * CHUNK * (4 * width + 8) + 100


def test_the_peak_of_the_backward_pass_is_that_of_its_largest_stage():
    encoders, language = Activations(kept=10, again=70), Activations(kept=20, again=5)
    logits = Activations(kept=30, again=0)
    assert peak_bytes([encoders, language, logits]) == 80
    assert peak_bytes([Activations(kept=10, again=1), language, logits]) == 60
    assert peak_bytes([Activations(kept=10, again=1), language, Activations(kept=30, again=9)]) == 69


def test_tokens_are_those_of_the_longest_sample():
    recipe = tiny_recipe(training__num_processes=8)
    model = build_meta_model(recipe)
    # 32 frames of one token; 10 s at 16 kHz are 499 features, 25 of which are a token.
    tokens, batch = longest_batch(model, recipe, 100)
    assert tokens == 32 + 20 + 100
    assert (batch.samples, batch.rows, batch.row_tokens, batch.labelled_tokens) == (6, 6, 152, 600)
    packed = recipe.with_overrides({"training.pack_length": 500})
    tokens, batch = longest_batch(model, packed, 100)
    assert (tokens, batch.rows, batch.row_tokens, batch.packed) == (152, 2, 456, True)
    assert longest_batch(model, recipe.with_overrides({"model.max_tokens": 77}), 100)[0] == 77
    assert Estimator(text_tokens=100).estimate(recipe).tokens_per_step == 48 * 152


SIZE = ModelSize(
    parts=(
        PartSize(name="vision_tower", parameters=400, trained=0),
        PartSize(name="language", parameters=1200, trained=800),
    ),
    trained_tensors=7,
    largest=300,
    outside=PartSize(name="outside", parameters=500, trained=200),
    block=PartSize(name="block", parameters=90, trained=60),
)
BUCKET = 500_000_000


@pytest.mark.parametrize(
    ("engine", "precision", "gpus", "weights", "gradients", "optimizer", "buffers", "checkpoint"),
    [
        # One GPU in float32 has no buffers; others gather 500 + 2 x 90, and reduce the last 200 gradients.
        ("torch", "fp32", 1, 6400, 3200, 6400 + 28, 0, 6400 + 6400 + 6400),
        ("torch", "bf16", 1, 6400, 3200, 6400 + 28, 2 * 680 + 6 * 200, 3200 + 6400 + 6400),
        ("torch", "fp32", 4, 1600, 800, 1600 + 28, 4 * 680 + 8 * 200, 6400 + 6400 + 6400),
        ("torch", "bf16", 4, 1600, 800, 1600 + 28, 2 * 680 + 6 * 200, 3200 + 6400 + 6400),
        (1, "fp32", 4, 6400, 3200 + 800, 2400, 4 * BUCKET, 6400 + 6400 + 9600),
        (1, "bf16", 4, 3200, 1600 + 400, 2400, 2 * BUCKET, 3200 + 3200 + 9600),
        (2, "fp32", 4, 6400, 800, 2400, 4 * BUCKET, 6400 + 6400 + 9600 + 3200),
        (2, "bf16", 4, 3200, 800, 2400, 2 * BUCKET, 3200 + 3200 + 9600 + 1600),
        (3, "fp32", 4, 1600, 800, 2400, 4 * (BUCKET + 800 + 1600), 6400 + 3200 + 9600),
        (3, "bf16", 4, 800, 800, 2400, 2 * (BUCKET + 800 + 1600), 3200 + 1600 + 9600),
    ],
)
def test_memory_of_a_gpu_by_hand(engine, precision, gpus, weights, gradients, optimizer, buffers, checkpoint):
    chosen = {"engine": "torch"} if engine == "torch" else {"engine": "deepspeed", "zero_stage": engine}
    training = TrainingRecipe(
        steps=1, global_batch_size=gpus, num_processes=gpus, precision=precision, **chosen
    )
    memory = gpu_memory(SIZE, training, 1000)
    assert (memory.weights, memory.gradients) == (weights, gradients)
    assert (memory.optimizer_states, memory.buffers) == (optimizer, buffers)
    assert memory.total == weights + gradients + optimizer + buffers + 1000
    assert memory.start == 6400
    assert checkpoint_bytes(SIZE, training) == checkpoint


def test_fsdp_reduces_gradients_of_large_blocks_beside_those_outside():
    size = SIZE.model_copy(update={"block": PartSize(name="block", parameters=400, trained=400)})
    training = TrainingRecipe(steps=1, global_batch_size=4, num_processes=4, engine="torch")
    assert gpu_memory(size, training, 0).buffers == 4 * (500 + 2 * 400) + 4 * 200 + 8 * 400


def test_blocks_and_the_weights_outside_are_those_of_the_model():
    model = build_meta_model(seven_b())
    size = model_size(model)
    layers = [*model.language_model.model.layers, *model.vision_tower.encoder.layers]
    stacks = [
        *layers,
        *model.audio_tower.model.encoder.layers,
        *model.audio_tower.model.feature_extractor.conv_layers,
    ]
    counts = [sum(weight.numel() for weight in block.parameters()) for block in stacks]
    assert size.block.parameters == size.block.trained == max(counts)
    assert size.outside.parameters == size.parameters - sum(counts)
    assert size.outside.parameters > 2 * 152_064 * 3584


def test_before_zero_3_shards_it_a_gpu_holds_the_whole_model():
    size = ModelSize(
        parts=(PartSize(name="language", parameters=10**11, trained=0),),
        trained_tensors=0,
        largest=10**9,
        outside=PartSize(name="outside", parameters=10**9, trained=0),
        block=PartSize(name="block", parameters=10**9, trained=0),
    )
    training = TrainingRecipe(steps=1, global_batch_size=64, num_processes=64, zero_stage=3)
    memory = gpu_memory(size, training, 0)
    assert memory.total < memory.peak == 4 * 10**11


def test_optimizer_states_and_checkpoint_are_those_of_a_real_step(tmp_path):
    language = dict(tiny_recipe().model.language, hidden_size=256, intermediate_size=1024)
    recipe = tiny_recipe(
        model__language=language,
        training__engine="torch",
        training__num_processes=1,
        model__trainable_parts=["language"],
    )
    model, processor = fresh_model(recipe, TEXTS)
    engine = build_engine(model.train(), recipe)
    batch = processor.collate([processor.encode(TURNS, clip())])
    engine.step(engine.model(**batch).loss, 1e-3)
    found = Estimator().estimate(with_vocabulary(recipe, processor))
    states = engine.optimizer_state().values()
    assert found.memory.optimizer_states == sum(tensor.nbytes for tensor in states)
    gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
    assert found.memory.gradients == sum(gradient.nbytes for gradient in gradients)

    (tmp_path / "engine").mkdir()
    engine.save(tmp_path / "engine")
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    written = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    assert found.checkpoint_bytes == pytest.approx(written, rel=0.01)


def test_a_base_model_needs_its_config_alone(tmp_path):
    recipe = tiny_recipe(training__engine="torch")
    model, processor = tiny_model()
    model.save_pretrained(tmp_path / "whole")
    (tmp_path / "config").mkdir()
    shutil.copy(tmp_path / "whole" / "config.json", tmp_path / "config")
    base = tiny_recipe(model={"base": str(tmp_path / "config")}, training__engine="torch")
    found, fresh = (Estimator().estimate(one) for one in (base, with_vocabulary(recipe, processor)))
    assert (found.model, found.memory) == (fresh.model, fresh.memory)
    with pytest.raises(UserError, match=r"media\.frame_size=64 .* must be 32"):
        Estimator().estimate(base.with_overrides({"media.frame_size": 64}))


def test_an_imported_model_has_the_parameters_of_its_weights(tmp_path):
    source = write_llava("llava_onevision", tmp_path / "source")
    import_model(source, tmp_path / "model", audio=write_audio_tower(tmp_path / "audio"))
    recipe = tiny_recipe(model={"base": str(tmp_path / "model"), "trainable_parts": CONNECTORS})
    weights = base_model(recipe, tmp_path / "model")[0].parameters()
    counts = [(weight.numel(), weight.numel() * weight.requires_grad) for weight in weights]
    size = Estimator().estimate(recipe).model
    assert (size.parameters, size.trained) == tuple(map(sum, zip(*counts, strict=True)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model__vision": {"model_type": "steam"}}, "steam"),
        ({"model__vision": {"model_type": "siglip_vision_model", "hidden_size": "wide"}}, "hidden_size"),
        ({"model": {"base": "/nowhere/at/all"}}, "/nowhere/at/all"),
    ],
)
def test_a_model_that_cannot_be_built_is_one_line(changes, message):
    with pytest.raises(UserError, match=message) as caught:
        build_meta_model(tiny_recipe(**changes))
    assert "\n" not in str(caught.value)


EVERYTHING_AGAIN = {"activation_checkpointing": ["vision_tower", "audio_tower", "language"]}
LEAST = EVERYTHING_AGAIN | {"precision": "bf16", "zero_stage": 3}
MANY = LEAST | {"num_processes": 1024, "global_batch_size": 1024}


@pytest.mark.parametrize(
    ("limit_gib", "training", "media", "options"),
    [
        (100, {}, {}, {"training.precision"}),
        (60, {"precision": "bf16"}, {}, {"training.activation_checkpointing"}),
        (32, EVERYTHING_AGAIN | {"precision": "bf16"}, {}, {"training.zero_stage"}),
        (80, {"engine": "torch"}, {}, {"training.activation_checkpointing"}),
        (
            *(50, {}, {}),
            {"training.precision", "training.activation_checkpointing", "training.zero_stage"},
        ),
        (40, LEAST | {"global_batch_size": 64}, {}, {"training.global_batch_size"}),
        (
            80,
            {"num_processes": 1, "global_batch_size": 1} | LEAST,
            {},
            {"--gpus", "training.global_batch_size"},
        ),
        (32, MANY, {"max_frames": 512}, {"media.max_frames"}),
        (35, MANY, {"max_frames": 1, "max_audio_s": 2400}, {"model.trainable_parts"}),
    ],
    ids=[
        *("bfloat16", "language again", "ZeRO 3", "torch", "all three"),
        *("samples", "GPUs", "frames", "connectors"),
    ],
)
def test_a_recipe_that_does_not_fit_names_a_change_that_does(limit_gib, training, media, options):
    changes = {f"media.{name}": value for name, value in media.items()}
    recipe, estimator = seven_b(**training).with_overrides(changes), Estimator()
    found = estimator.estimate(recipe)
    with pytest.raises(DoesNotFitError) as caught:
        require_fit(estimator, recipe, found, limit_gib)
    problem, advice = str(caught.value).split("; ", 1)
    assert f"{found.memory.peak / GIB:.1f} GiB" in problem
    named = shlex.split(advice.partition(": ")[2].replace("--set ", ""))
    changes = parsed_overrides([one for one in named if "=" in one], "--set")
    assert {*changes, *(one for one in named if one == "--gpus")} == options
    if "--gpus" in named:
        changes["training.num_processes"] = int(named[named.index("--gpus") + 1])
    peak = estimator.estimate(recipe.with_overrides(changes)).memory.peak
    assert peak <= limit_gib * GIB
    assert re.search(rf"\b{peak / GIB:.1f} GiB", advice)


def test_nothing_is_advised_if_nothing_helps():
    recipe = seven_b()
    estimator = Estimator()
    found = estimator.estimate(recipe)
    with pytest.raises(DoesNotFitError, match=r"media\.max_frames"):
        require_fit(estimator, recipe, found, 1.0)
    require_fit(estimator, recipe, found, found.memory.peak / GIB)
