"""Loss in chunks on a GPU: the values of the whole, with bounded memory."""

import pytest
import torch
from torch import nn

from llava_av.model.token_loss import CHUNK, token_losses
from tests.gpu.tiny_models import DEVICE, GPU

pytestmark = GPU
_WIDTH, _VOCABULARY = 64, 32_000


def inputs(positions, dtype):
    torch.manual_seed(0)
    head = nn.Linear(_WIDTH, _VOCABULARY, bias=False, device=DEVICE, dtype=dtype)
    hidden = torch.randn(positions, _WIDTH, device=DEVICE, dtype=dtype, requires_grad=True)
    return head, hidden, torch.randint(_VOCABULARY, (positions,), device=DEVICE)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-4), (torch.bfloat16, 2e-2)])
def test_chunks_give_the_loss_and_the_gradients_of_the_whole(dtype, bound):
    head, hidden, targets = inputs(2 * CHUNK + 100, dtype)
    losses = token_losses(head, hidden, targets)
    losses.mean().backward()
    in_chunks = [head.weight.grad.clone(), hidden.grad.clone()]
    head.zero_grad()
    hidden.grad = None
    whole = nn.functional.cross_entropy(head(hidden).float(), targets, reduction="none")
    whole.mean().backward()
    torch.testing.assert_close(losses, whole, atol=1e-5, rtol=1e-5)
    for one, other in zip(in_chunks, (head.weight.grad, hidden.grad), strict=True):
        assert float((one - other).abs().max()) <= bound * float(other.abs().max())


def test_memory_holds_the_logits_of_one_chunk():
    """One chunk has its logits in both types, their logarithms, and the gradients of both."""
    head, hidden, targets = inputs(16 * CHUNK, torch.bfloat16)
    of_chunk = CHUNK * _VOCABULARY * 4
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    token_losses(head, hidden, targets).mean().backward()
    peak = torch.cuda.max_memory_allocated() - before
    assert of_chunk < peak < 5 * of_chunk
