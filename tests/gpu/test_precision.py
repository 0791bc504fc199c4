"""Precision and memory on a GPU: bfloat16 against float32, recomputed against kept activations."""

import torch

from llava_av.model.parts import recompute_activations
from tests.gpu.tiny_models import GPU, Trained, apart, tiny_data, tiny_model, trained

pytestmark = GPU


def all_gradients(result: Trained) -> torch.Tensor:
    return torch.cat([result.gradients[name].flatten() for name in sorted(result.gradients)])


def test_bfloat16_has_the_losses_and_gradients_of_float32_within_its_rounding():
    """The bounds are estimates: a step of bfloat16 is 0.4 %, and the model has a few layers."""
    data = tiny_data()
    exact = trained(tiny_model(data, torch.float32), *apart(data))
    rounded = trained(tiny_model(data, torch.bfloat16), *apart(data))
    torch.testing.assert_close(rounded.losses, exact.losses, atol=0.05, rtol=0)
    both = all_gradients(rounded), all_gradients(exact)
    assert float(torch.cosine_similarity(*both, dim=0)) > 0.98


def test_recomputed_activations_give_the_same_gradients():
    data = tiny_data()

    def of_model(parts):
        model = tiny_model(data, torch.bfloat16)
        # Without trained weights this tower stays in evaluation mode, so that it masks nothing at random.
        model.audio_tower.requires_grad_(False)
        recompute_activations(model, parts)
        return trained(model.train(), *apart(data))

    # The same kernels on the same values; additions to shared elements may come in another order.
    of_model(("vision_tower", "audio_tower", "language")).assert_close_to(of_model(()), 5e-3)
