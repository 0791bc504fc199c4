"""Packed rows on a GPU, with the attention that training chooses: samples do not see each other."""

import pytest
import torch

from llava_av.model.sequence.packing import packed_attention
from tests.gpu.tiny_models import DEVICE, GPU, apart, packed, tiny_data, tiny_model, trained

pytestmark = GPU
# Estimates, not measured on a GPU yet. Losses are near 7.6. In float32, TensorFloat-32 has a relative step of
# 5e-4 where PyTorch allows it; bfloat16 has one of 4e-3, and each of a few layers rounds again.
_BOUNDS = {torch.float32: 2e-3, torch.bfloat16: 5e-2}


def test_training_takes_an_attention_that_skips_other_samples():
    model = tiny_model(tiny_data(), torch.bfloat16)
    assert packed_attention(model.language_model, DEVICE, "bf16") in ("flash_attention_2", "flex_attention")


@pytest.mark.parametrize(("dtype", "precision"), [(torch.bfloat16, "bf16"), (torch.float32, "fp32")])
@pytest.mark.parametrize("is_chosen", [True, False], ids=["chosen", "sdpa"])
def test_packed_and_separate_samples_give_the_same_loss_and_gradients(dtype, precision, is_chosen):
    data = tiny_data()
    model = tiny_model(data, dtype)
    attention = packed_attention(model.language_model, DEVICE, precision) if is_chosen else "sdpa"
    together = trained(tiny_model(data, dtype, attention), *packed(data))
    together.assert_close_to(trained(model, *apart(data)), _BOUNDS[dtype])
