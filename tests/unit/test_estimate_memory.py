"""Estimated memory of a GPU and size of a checkpoint against values computed by hand."""

import pytest

from llava_av.recipe import TrainingRecipe
from llava_av.training.engines.deepspeed_engine import REDUCE_BUCKET
from llava_av.training.engines.torch_engine import MIN_BLOCK_PARAMETERS
from llava_av.workflows.estimate.memory import checkpoint_bytes, gpu_memory
from llava_av.workflows.estimate.meta_model import ModelSize, PartSize, build_meta_model, model_size
from tests.estimate_samples import seven_b

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


@pytest.mark.parametrize(
    ("engine", "precision", "gpus", "weights", "gradients", "optimizer", "buffers"),
    [
        # One GPU in float32 has no buffers; others gather 500 + 2 x 90, and reduce the last 200 gradients.
        ("torch", "fp32", 1, 6400, 3200, 6400 + 28, 0),
        ("torch", "bf16", 1, 6400, 3200, 6400 + 28, 2 * 680 + 6 * 200),
        ("torch", "fp32", 4, 1600, 800, 1600 + 28, 4 * 680 + 8 * 200),
        ("torch", "bf16", 4, 1600, 800, 1600 + 28, 2 * 680 + 6 * 200),
        (1, "fp32", 4, 6400, 3200 + 800, 2400, 4 * 800),
        (1, "bf16", 4, 3200, 1600 + 400, 2400, 2 * 800),
        (2, "fp32", 4, 6400, 800, 2400, 4 * 800),
        (2, "bf16", 4, 3200, 800, 2400, 2 * 800),
        (3, "fp32", 4, 1600, 800, 2400, 4 * (2 * 800 + 1600)),
        (3, "bf16", 4, 800, 800, 2400, 2 * (2 * 800 + 1600)),
    ],
)
def test_memory_of_a_gpu_by_hand(engine, precision, gpus, weights, gradients, optimizer, buffers):
    chosen = {"engine": "torch"} if engine == "torch" else {"engine": "deepspeed", "zero_stage": engine}
    training = TrainingRecipe(
        steps=1, global_batch_size=gpus, num_processes=gpus, precision=precision, **chosen
    )
    memory = gpu_memory(SIZE, training, 1000)
    assert (memory.weights, memory.gradients) == (weights, gradients)
    assert (memory.optimizer_states, memory.buffers) == (optimizer, buffers)
    assert memory.total == weights + gradients + optimizer + buffers + 1000
    assert memory.start == 6400
    assert checkpoint_bytes(SIZE) == 12 * 800
    assert memory.host == 0


@pytest.mark.parametrize(
    ("stage", "precision", "gradients", "host"),
    [
        # Float32 weights, two moments, gradients, and the updated weights or the reduced gradients.
        (1, "fp32", 4 * 800, 200 * (4 + 8 + 4 + 4)),
        (1, "bf16", 2 * 800, 200 * (4 + 8 + 4 + 2)),
        (2, "fp32", 4 * 200, 200 * (4 + 8 + 4 + 4)),
        (2, "bf16", 4 * 200, 200 * (4 + 8 + 4 + 2)),
        (3, "bf16", 0, 200 * (4 + 8 + 4 + 4)),
    ],
)
def test_an_offloaded_optimizer_takes_host_memory(stage, precision, gradients, host):
    training = TrainingRecipe(
        steps=1,
        global_batch_size=4,
        num_processes=4,
        precision=precision,
        zero_stage=stage,
        offload_optimizer=True,
    )
    memory = gpu_memory(SIZE, training, 1000)
    assert (memory.optimizer_states, memory.gradients, memory.host) == (0, gradients, host)
    assert memory.total == memory.weights + gradients + memory.buffers + 1000


def test_a_bucket_has_at_most_as_many_gradients_as_are_reduced_at_once():
    parts = (PartSize(name="language", parameters=10**9, trained=10**9),)
    training = TrainingRecipe(steps=1, global_batch_size=4, num_processes=4)
    memory = gpu_memory(SIZE.model_copy(update={"parts": parts}), training, 0)
    assert memory.buffers == 4 * REDUCE_BUCKET < 4 * 10**9


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
    every = [sum(weight.numel() for weight in block.parameters()) for block in stacks]
    counts = [count for count in every if count > MIN_BLOCK_PARAMETERS]
    assert 0 < len(counts) < len(every)
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
