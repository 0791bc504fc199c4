"""Projectors: shapes, gradients, options."""

import pytest
import torch

from llava_av.model.connector.projectors import PROJECTORS

KINDS = [
    ("linear", {}),
    ("linear", {"norm": False, "bias": False}),
    ("mlp", {}),
    ("mlp", {"layers": 4, "activation": "silu", "norm": False}),
    ("mlp", {"bias": False}),
    ("residual_mlp", {}),
    ("residual_mlp", {"blocks": 2, "activation": "relu", "norm": False}),
]


def projector(kind, options):
    torch.manual_seed(0)
    return PROJECTORS.build(kind, options, width_in=6, width_out=10)


@pytest.mark.parametrize(("kind", "options"), KINDS)
def test_shape_and_gradients(kind, options):
    part = projector(kind, options)
    projected = part(torch.randn(4, 3, 6))
    assert projected.shape == (4, 3, 10)
    projected.square().sum().backward()
    assert [name for name, one in part.named_parameters() if one.grad is None or not one.grad.any()] == []


def test_options_leave_out_what_they_name():
    names = dict(projector("mlp", {"norm": False, "bias": False, "layers": 3}).named_parameters())
    assert list(names) == ["linear_1.weight", "linear_2.weight", "linear_3.weight"]


def test_a_residual_projector_is_its_matrix_and_a_correction():
    part = projector("residual_mlp", {"norm": False})
    features = torch.randn(2, 6)
    torch.nn.init.zeros_(part.blocks[0][-1].weight)
    torch.nn.init.zeros_(part.blocks[0][-1].bias)
    assert torch.equal(part(features), part.linear(features))


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("conv", {}, "unknown projector 'conv': one of linear, mlp, residual_mlp"),
        (
            "linear",
            {"activation": "gelu"},
            "projector linear has no option 'activation': it takes norm, bias",
        ),
        ("mlp", {"layers": 1}, "layers=1"),
        ("mlp", {"activation": "tanh"}, "unknown activation 'tanh' of a projector: one of gelu, relu, silu"),
        ("residual_mlp", {"blocks": 0}, "blocks=0"),
    ],
)
def test_a_part_that_cannot_be_built_is_named(kind, options, message):
    with pytest.raises(ValueError, match=message):
        projector(kind, options)
