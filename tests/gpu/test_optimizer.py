"""Fused AdamW on a GPU: it is chosen, and updates as the unfused one."""

import copy

import torch

from benchmarks.gpu_models import SHAPES
from llava_av.training.optimizer import build_optimizer, prepare_step
from tests.gpu.tiny_models import DEVICE, GPU, tiny_data, tiny_model

pytestmark = GPU
_RATE, _STEPS = 1e-3, 4


def test_the_fused_optimizer_updates_as_the_unfused_one():
    fused_model = tiny_model(tiny_data(), torch.float32)
    plain_model = copy.deepcopy(fused_model)
    settings = SHAPES["7B, adapters"].optimizer
    fused = build_optimizer(fused_model, settings)
    assert fused.defaults["fused"]
    plain = torch.optim.AdamW(
        plain_model.parameters(),
        betas=(settings.beta1, settings.beta2),
        weight_decay=settings.weight_decay,
        lr=_RATE,
        foreach=False,
    )
    draw = torch.Generator(DEVICE).manual_seed(0)
    for _ in range(_STEPS):
        for one, other in zip(fused_model.parameters(), plain_model.parameters(), strict=True):
            one.grad = torch.randn(one.shape, generator=draw, device=DEVICE)
            other.grad = one.grad.clone()
        prepare_step(fused, _RATE, ())
        fused.step()
        plain.step()
    for one, other in zip(fused_model.parameters(), plain_model.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)
