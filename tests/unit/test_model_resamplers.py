"""Resamplers: counts, shapes, gradients, and the pooling of released models."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.models.llava_next_video.modeling_llava_next_video import LlavaNextVideoPooler
from transformers.models.llava_onevision.modeling_llava_onevision import LlavaOnevisionModel

from llava_av.model.connector.resamplers import RESAMPLERS

WIDTH, HEADS = 8, 2
KINDS = [
    ("spatial_pool", {"stride": 2}),
    ("spatial_pool", {"stride": 3, "mode": "average", "rounding": "ceil"}),
    ("spatial_pool", {"stride": 3, "mode": "max", "rounding": "ceil"}),
    ("spatial_pool", {"stride": 2, "mode": "max", "rounding": "floor"}),
    ("spatial_pool", {"stride": 2, "mode": "bilinear", "rounding": "ceil"}),
    ("spatial_pool", {"stride": 2, "mode": "bilinear", "rounding": "floor"}),
    ("perceiver", {"queries": 3}),
    ("perceiver", {"queries": 5, "layers": 2}),
    ("qformer", {"queries": 3, "layers": 2}),
    ("masked_drop", {"drop_share": 0.4}),
    ("identity", {}),
]


def resampler(kind, options):
    torch.manual_seed(0)
    return RESAMPLERS.build(kind, options, width=WIDTH, heads=HEADS)


@pytest.mark.parametrize(("kind", "options"), KINDS)
@settings(max_examples=12, deadline=None)
@given(height=st.integers(2, 9), width=st.integers(2, 9), training=st.booleans())
def test_the_count_equals_the_output(kind, options, height, width, training):
    part = resampler(kind, options).train(training)
    patches = torch.randn(2, height * width, WIDTH)
    tokens = part(patches, height, width)
    assert tokens.shape == (2, part.tokens(height, width), WIDTH)
    grid = part.grid(height, width)
    assert grid is None or grid[0] * grid[1] == tokens.shape[1]


@pytest.mark.parametrize(("kind", "options"), KINDS)
def test_gradients_reach_every_parameter_and_the_patches(kind, options):
    part = resampler(kind, options)
    patches = torch.randn(3, 6 * 4, WIDTH, requires_grad=True)
    tokens = part(patches, 6, 4)
    # a norm makes the sum of squares a constant
    (tokens * torch.randn_like(tokens)).sum().backward()
    assert patches.grad.any()
    assert [name for name, one in part.named_parameters() if one.grad is None or not one.grad.any()] == []


@pytest.mark.parametrize("kind", ["perceiver", "qformer"])
def test_queries_read_the_same_of_features_of_any_size(kind):
    part = resampler(kind, {"queries": 3}).double()
    patches = torch.randn(2, 12, WIDTH, dtype=torch.double)
    torch.testing.assert_close(part(100 * patches, 3, 4), part(patches, 3, 4), atol=1e-4, rtol=0)


@pytest.mark.parametrize("side", [4, 5, 27])
def test_pooling_is_that_of_llava_next_video(side):
    config = SimpleNamespace(
        spatial_pool_mode="average",
        spatial_pool_stride=2,
        vision_config=SimpleNamespace(image_size=side, patch_size=1, hidden_size=WIDTH),
    )
    patches = torch.randn(2, side * side, WIDTH)
    ours = resampler("spatial_pool", {"stride": 2})(patches, side, side)
    assert torch.equal(ours, LlavaNextVideoPooler(config)(patches))


@pytest.mark.parametrize("side", [4, 5, 27])
def test_bilinear_pooling_is_that_of_llava_onevision(side):
    config = SimpleNamespace(vision_config=SimpleNamespace(image_size=side, patch_size=1))
    patches = torch.randn(2, side * side, WIDTH)
    ours = resampler("spatial_pool", {"stride": 2, "mode": "bilinear", "rounding": "ceil"})
    released = LlavaOnevisionModel.apply_pooling(SimpleNamespace(config=config), patches)
    assert torch.equal(ours(patches, side, side), released)


def test_masked_drop_keeps_the_order_draws_in_training_and_repeats_itself_in_evaluation():
    part = resampler("masked_drop", {"drop_share": 0.5})
    patches = torch.arange(16.0).reshape(1, 16, 1).expand(2, -1, WIDTH)
    torch.manual_seed(1)
    first, second = part(patches, 4, 4), part(patches, 4, 4)
    torch.manual_seed(1)
    again = part(patches, 4, 4)
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    assert not torch.equal(first[0], first[1])
    assert torch.all(first[:, 1:, 0] > first[:, :-1, 0])
    part.eval()
    assert torch.equal(part(patches, 4, 4)[0, :, 0], torch.arange(0.0, 16.0, 2.0))


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("pool", {}, "unknown resampler 'pool': one of spatial_pool, perceiver"),
        ("perceiver", {"stride": 2}, "resampler perceiver has no option 'stride': it takes queries, layers"),
        ("identity", {"size": 2}, "resampler identity has no option 'size': it takes none"),
        ("spatial_pool", {}, "resampler spatial_pool needs the option 'stride'"),
        ("spatial_pool", {"stride": 0}, "stride=0"),
        ("spatial_pool", {"stride": 2, "mode": "median"}, "mode='median'"),
        ("spatial_pool", {"stride": 2, "rounding": "up"}, "rounding='up'"),
        ("perceiver", {"queries": 0}, "queries=0 and layers=1"),
        ("qformer", {"queries": 2, "layers": 0}, "layers=0"),
        ("masked_drop", {"drop_share": 1.0}, "drop_share=1.0"),
    ],
)
def test_a_part_that_cannot_be_built_is_named(kind, options, message):
    with pytest.raises(ValueError, match=message):
        resampler(kind, options)


def test_heads_that_do_not_divide_the_width_are_named_with_it():
    with pytest.raises(ValueError, match=r"heads=3 .* must divide its 8 features"):
        RESAMPLERS.build("qformer", {"queries": 2}, width=8, heads=3)


def test_a_grid_that_does_not_fit_is_named():
    with pytest.raises(ValueError, match="16 patches but a grid of 4x5"):
        resampler("identity", {})(torch.randn(1, 16, WIDTH), 4, 5)
    with pytest.raises(ValueError, match="stride 3 leaves no token of 2x8 patches"):
        resampler("spatial_pool", {"stride": 3}).tokens(2, 8)
