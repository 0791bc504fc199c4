"""Audio down-samplers: counts, shapes, gradients, and content of the last group."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.utils.rnn import pad_sequence

from llava_av.model.connector.audio_downsamplers import AUDIO_DOWNSAMPLERS

WIDTH, HEADS = 8, 2
KINDS = [
    ("stack", {"size": 4}),
    ("average", {"size": 4}),
    ("convolution", {"kernel": 5, "stride": 3}),
    ("convolution", {"kernel": 3, "stride": 3}),
    ("qformer", {"window": 5}),
    ("qformer", {"window": 4, "queries": 2, "layers": 1}),
]


def downsampler(kind, options):
    torch.manual_seed(0)
    return AUDIO_DOWNSAMPLERS.build(kind, options, width=WIDTH, heads=HEADS)


@pytest.mark.parametrize(("kind", "options"), KINDS)
@settings(max_examples=15, deadline=None)
@given(time=st.integers(1, 40))
def test_the_count_equals_the_output(kind, options, time):
    part = downsampler(kind, options)
    tokens = part(torch.randn(2, time, WIDTH), [time, time])
    assert tokens.shape == (2, part.tokens(time), part.width_out)
    assert part.tokens(0) == 0


@pytest.mark.parametrize(("kind", "options"), KINDS)
def test_every_feature_reaches_a_token_and_a_gradient_every_parameter(kind, options):
    part = downsampler(kind, options)
    features = torch.randn(2, 11, WIDTH, requires_grad=True)
    part(features, [11, 11]).square().sum().backward()
    assert features.grad.abs().sum(2).ne(0).all()
    assert [name for name, one in part.named_parameters() if one.grad is None or not one.grad.any()] == []


@pytest.mark.parametrize(("kind", "options"), KINDS)
@settings(max_examples=10, deadline=None)
@given(lengths=st.lists(st.integers(1, 25), min_size=1, max_size=4))
def test_a_clip_depends_neither_on_its_neighbours_nor_on_padding(kind, options, lengths):
    """The largest observed difference is 7e-7 (another batch shape gives other kernels)."""
    part = downsampler(kind, options)
    features = [torch.randn(length, WIDTH) for length in lengths]
    padded = pad_sequence(features, batch_first=True, padding_value=7.0).requires_grad_()
    together = part(padded, lengths)
    own = [row[: part.tokens(length)] for row, length in zip(together, lengths, strict=True)]
    for one, kept, length in zip(features, own, lengths, strict=True):
        torch.testing.assert_close(kept, part(one[None], [length])[0], atol=5e-6, rtol=0)
    torch.cat(own).square().sum().backward()
    assert all(gradient[length:].eq(0).all() for gradient, length in zip(padded.grad, lengths, strict=True))
    assert all(one.grad.isfinite().all() for one in part.parameters())


def test_the_last_group_averages_only_its_features():
    features = torch.tensor([1.0, 2.0, 3.0, 4.0, 10.0]).reshape(1, 5, 1).expand(-1, -1, WIDTH)
    assert downsampler("average", {"size": 4})(features, [5])[0, :, 0].tolist() == [2.5, 10.0]


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("lstm", {}, "unknown audio down-sampler 'lstm': one of stack, convolution, average, qformer"),
        ("stack", {"stride": 2}, "audio down-sampler stack has no option 'stride': it takes size"),
        ("stack", {"size": 0}, "size=0"),
        ("convolution", {"kernel": 2, "stride": 3}, "kernel=2 .* ≥ stride=3"),
        ("qformer", {"window": 0}, "window=0"),
    ],
)
def test_a_part_that_cannot_be_built_is_named(kind, options, message):
    with pytest.raises(ValueError, match=message):
        downsampler(kind, options)
