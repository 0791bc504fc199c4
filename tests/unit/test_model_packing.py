"""Packed rows: their content, and the independence of samples in one row."""

import dataclasses
import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from transformers import DynamicCache, PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from llava_av.media.clip import Clip
from llava_av.model.sequence import packing
from llava_av.model.sequence.packing import pack_rows, packed_attention, restarted_positions
from tests.model_samples import clip, image, tiny_model, waveform

TURNS = [("human", "Which colour is shown?"), ("gpt", "red")]
CLIPS = (
    clip(0),
    Clip(),
    clip(1, frames=2, samples=20_000),
    Clip(audios=(waveform(samples=9_000),)),
    Clip(images_nhwc=(image(),)),
    clip(2, samples=None),
)
ROW = 60


@given(lengths=st.lists(st.integers(1, 30), max_size=30), limit=st.integers(30, 90))
def test_every_sample_is_in_one_row_and_no_row_is_too_long(lengths, limit):
    rows = pack_rows(lengths, limit)
    assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
    assert all(0 < sum(lengths[index] for index in row) <= limit for row in rows)
    # of two rows that fit into one, neither would have been opened
    sums = sorted(sum(lengths[index] for index in row) for row in rows)
    assert len(sums) < 2 or sums[0] + sums[1] > limit


def test_a_sample_longer_than_a_row_is_rejected_with_both_numbers():
    with pytest.raises(ValueError, match="a sample of 31 tokens does not fit packed rows of 30"):
        pack_rows([3, 31], 30)


def test_positions_restart_with_each_sample_and_with_padding():
    sample_of = torch.tensor([[0, 0, 0, 1, 2, 2], [3, 3, -1, -1, -1, -1]])
    assert restarted_positions(sample_of).tolist() == [[0, 1, 2, 0, 0, 1], [0, 1, 0, 1, 2, 3]]


def trained(attention, collated):
    """Loss sums by sample, number of labels, and gradients by name, of the same model each time."""
    model, processor = tiny_model()
    # the towers are alike on both sides, and not every one of them has every attention
    model.language_model.set_attn_implementation(attention)
    samples = [processor.encode(TURNS, one) for one in CLIPS]
    batch, order = collated(processor, samples)
    output = model(**batch)
    output.loss_sums.sum().backward()
    sums = torch.empty_like(output.loss_sums)
    sums[order] = output.loss_sums
    gradients = {name: one.grad for name, one in model.named_parameters() if one.grad is not None}
    return sums.detach(), output.loss_counts.sum().item(), gradients


def apart(processor, samples):
    return processor.collate(samples), list(range(len(samples)))


def packed(processor, samples):
    rows = pack_rows([len(one.input_ids) for one in samples], ROW)
    assert 1 < len(rows) < len(samples)
    assert max(map(len, rows)) > 1
    collated = processor.collate_packed([[samples[index] for index in row] for row in rows])
    return collated, [index for row in rows for index in row]


def assert_the_same(packed_result, separate_result, *, atol):
    sums, count, gradients = packed_result
    expected_sums, expected_count, expected = separate_result
    assert count == expected_count
    torch.testing.assert_close(sums, expected_sums, atol=atol, rtol=0)
    assert gradients.keys() == expected.keys()
    largest = max(float(one.abs().max()) for one in expected.values())
    difference = max(float((gradients[name] - expected[name]).abs().max()) for name in expected)
    assert difference <= atol * largest


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_packed_and_separate_samples_give_the_same_loss_and_gradients(attention):
    """The largest observed difference is 1e-6 of a loss of 6, and 4e-7 of the largest gradient."""
    assert_the_same(trained(attention, packed), trained(attention, apart), atol=5e-6)


@pytest.mark.parametrize(
    ("device", "precision", "flash", "compiler", "expected"),
    [
        ("cpu", "bf16", True, True, "eager"),
        ("cuda", "bf16", True, True, "flash_attention_2"),
        ("cuda", "bf16", False, True, "flex_attention"),
        ("cuda", "fp32", True, True, "flex_attention"),
        ("cuda", "fp32", True, False, "eager"),
    ],
)
def test_attention_of_packed_rows_follows_from_the_device(
    monkeypatch, tmp_path, device, precision, flash, compiler, expected
):
    monkeypatch.setattr(packing, "is_flash_attn_2_available", lambda: flash)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    if compiler:
        (tmp_path / "gcc").touch(mode=0o755)
    language_model = tiny_model()[0].language_model
    language_model.set_attn_implementation("eager")
    assert packed_attention(language_model, torch.device(device), precision) == expected


def attention_of_bounds(module, query, key, value, attention_mask, **options):
    """Return what FlashAttention computes for several samples in one row, from the same arguments."""
    assert attention_mask is None
    bounds = options["cu_seq_lens_q"].tolist()
    assert bounds == options["cu_seq_lens_k"].tolist()
    lengths = [end - start for start, end in itertools.pairwise(bounds)]
    assert options["max_length_q"] == options["max_length_k"] == max(lengths)
    parts = zip(*(one.split(lengths, dim=2) for one in (query, key, value)), strict=True)
    attended = [nn.functional.scaled_dot_product_attention(*part, is_causal=True) for part in parts]
    return torch.cat(attended, dim=2).transpose(1, 2), None


def test_flash_attention_gets_the_bounds_of_each_sample(monkeypatch):
    """FlashAttention needs a GPU, so its function is replaced; what it gets is the real model's."""
    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS, "flash_attention_2", attention_of_bounds)
    # Not `set_attn_implementation`, which requires the package.
    monkeypatch.setattr(
        PreTrainedModel,
        "set_attn_implementation",
        lambda model, name: setattr(model.config, "_attn_implementation", name),
    )
    assert_the_same(trained("flash_attention_2", packed), trained("eager", apart), atol=5e-6)


def test_a_neighbour_in_the_row_changes_nothing():
    model, processor = tiny_model()
    mine, other = (processor.encode(TURNS, one) for one in CLIPS[:2])
    another = dataclasses.replace(other, input_ids=other.input_ids[::-1])
    sums = [
        model(**processor.collate_packed([[neighbour, mine, neighbour]])).loss_sums[1].item()
        for neighbour in (other, another)
    ]
    assert sums[0] == sums[1]


def test_packed_samples_without_labels_are_independent_even_if_a_cache_is_requested():
    model, processor = tiny_model()
    one, other = (processor.encode(TURNS, each) for each in CLIPS[:2])
    alone = processor.collate([other])
    together = processor.collate_packed([[one, other]])
    for batch in (alone, together):
        batch.pop("labels")
    with torch.no_grad():
        expected = model(**alone).logits[0]
        packed_result = model(**together, use_cache=True)
    start = len(one.input_ids)
    torch.testing.assert_close(
        packed_result.logits[0, start : start + len(expected)], expected, atol=1e-5, rtol=0
    )
    assert packed_result.past_key_values is None


def test_a_cache_with_packed_rows_is_rejected():
    model, processor = tiny_model()
    batch = processor.collate_packed([[processor.encode(TURNS, Clip())]])
    with pytest.raises(ValueError, match="remove past_key_values"):
        model(**batch, past_key_values=DynamicCache())


def test_a_mask_with_packed_rows_is_rejected():
    model, processor = tiny_model()
    batch = processor.collate_packed([[processor.encode(TURNS, Clip())]])
    with pytest.raises(ValueError, match="sample_of instead of attention_mask"):
        model(**batch, attention_mask=torch.ones_like(batch["input_ids"]))
