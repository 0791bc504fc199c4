"""Estimated activations against what autograd really saves in tiny models."""

import pytest
import torch

from llava_av.errors import UserError
from llava_av.model import IGNORE
from llava_av.model.parts import recompute_activations
from llava_av.model.token_loss import CHUNK
from llava_av.workflows.estimate.activations import Activations, GpuBatch, activations, peak_bytes
from llava_av.workflows.estimate.estimating import Estimator
from llava_av.workflows.estimate.meta_model import build_meta_model, model_size
from tests.estimate_samples import CONNECTORS, LANGUAGE, with_vocabulary
from tests.model_samples import clip, tiny_model, tiny_recipe

TURNS = [("human", "Which colour is shown? What do you hear?"), ("gpt", "red green")]
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


ALL_AGAIN = ["vision_tower", "audio_tower", "language"]
GEMMA = {**LANGUAGE, "model_type": "gemma2"}
LLAMA = {**LANGUAGE, "model_type": "llama", "num_key_value_heads": 2}


# Each tolerance follows the worst case measured: 8 bytes for the place of each media token, which are 0.15 %
# of these small models, 0.46 % with frozen towers, and 0.62 % if everything is computed again;
# SigLIP 2 computes the positions of each frame (0.5 %), Whisper copies once more per layer on a CPU (1.1 %),
# and a CPU saves statistics of norms in bfloat16, where a GPU saves them in float32 (0.5 %).
@pytest.mark.parametrize(
    ("changes", "tolerance"),
    [
        ({}, 2e-3),
        ({"model__trainable_parts": CONNECTORS}, 5e-3),
        ({"model__trainable_parts": ["language"], "model__timestamps": True}, 1e-3),
        ({"model__vision": None, "model__trainable_parts": ["audio_tower", "audio_connector"]}, 1e-3),
        ({"model__language": LLAMA}, 2e-3),
        ({"model__language": GEMMA, "model__slow_fast": {"every": 2, "stride": 4}}, 2e-3),
        ({"model__vision": SIGLIP_2}, 6e-3),
        ({"model__audio": WHISPER}, 12e-3),
        ({"training__precision": "bf16"}, 6e-3),
        ({"training__precision": "bf16", "training__activation_checkpointing": ALL_AGAIN}, 6e-3),
        ({"training__activation_checkpointing": ["language"]}, 3e-3),
        ({"training__activation_checkpointing": ALL_AGAIN}, 7e-3),
    ],
    ids=[
        *("all", "projectors", "language", "audio", "Llama", "Gemma 2, slow-fast", "SigLIP 2", "Whisper"),
        *("bfloat16", "bfloat16, everything again", "language again", "everything again"),
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
    sections = activations(build_meta_model(with_vocabulary(recipe, processor)), batch, recomputed)
    assert sum(one.kept for one in sections) == pytest.approx(saved_bytes(model, tensors), rel=tolerance)


def test_a_mixture_of_experts_is_refused_in_one_line():
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
    recipe = tiny_recipe(model__language={**LANGUAGE, "model_type": "qwen3_moe", **experts})
    size = model_size(build_meta_model(recipe))
    named = rf"qwen3_moe routes each token to 2 of 4 experts.* {size.parameters:,} parameters"
    with pytest.raises(UserError, match=f"mixture-of-experts .*cannot be estimated: {named}") as caught:
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


def test_the_peak_of_the_backward_pass_is_that_of_its_largest_section():
    encoders, language = Activations(kept=10, again=70), Activations(kept=20, again=5)
    logits = Activations(kept=30, again=0)
    assert peak_bytes([encoders, language, logits]) == 80
    assert peak_bytes([Activations(kept=10, again=1), language, logits]) == 60
    assert peak_bytes([Activations(kept=10, again=1), language, Activations(kept=30, again=9)]) == 69
