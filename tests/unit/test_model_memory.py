"""What the model keeps for the backward pass, and that less of it gives the same gradients."""

import contextlib
from collections.abc import Iterator, Sequence

import pytest
import torch
from torch import Tensor

from llava_av.model import token_loss
from llava_av.model.parts import recompute_activations
from tests.model_samples import clip, tiny_model

TURNS = [("human", "What do you hear?"), ("gpt", "a red square and a high tone")]


@contextlib.contextmanager
def saved_numbers() -> Iterator[list[int]]:
    """Collect the size of each tensor that autograd saves in the block."""
    saved: list[int] = []

    def count(tensor: Tensor) -> Tensor:
        saved.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        yield saved


def kept_and_gradients(parts: Sequence[str] = ()) -> tuple[int, dict[str, Tensor]]:
    """Return the numbers that a forward pass keeps, and the gradients after the backward pass."""
    model, processor = tiny_model()
    recompute_activations(model.train(), parts)
    batch = processor.collate([processor.encode(TURNS, clip()), processor.encode(TURNS, clip(1))])
    with saved_numbers() as saved:
        loss = model(**batch).loss
    loss.backward()
    return sum(saved), {name: one.grad for name, one in model.named_parameters() if one.grad is not None}


@pytest.fixture(scope="module")
def whole() -> tuple[int, dict[str, Tensor]]:
    return kept_and_gradients()


@pytest.mark.parametrize(
    ("parts", "most"),
    [
        (("vision_tower",), 0.95),
        (("audio_tower",), 0.9),
        (("language",), 0.5),
        (("vision_tower", "audio_tower", "language"), 0.25),
    ],
)
def test_recomputed_activations_take_less_and_give_the_same_gradients(whole, parts, most: float) -> None:
    kept, gradients = kept_and_gradients(parts)
    assert kept < most * whole[0]
    assert gradients.keys() == whole[1].keys()
    assert all(gradient.equal(whole[1][name]) for name, gradient in gradients.items())


def test_a_model_without_a_part_has_nothing_to_recompute_there() -> None:
    model, _ = tiny_model(model__audio=None)
    recompute_activations(model, ("audio_tower", "language"))
    assert model.language_model.is_activation_checkpointing


def test_logits_in_chunks_take_less_and_give_the_same_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    head = torch.nn.Linear(4, 1_000, bias=False)
    hidden, targets = torch.randn(90, 4, requires_grad=True), torch.randint(1_000, (90,))
    found = {}
    for chunk in (4096, 16):
        monkeypatch.setattr(token_loss, "CHUNK", chunk)
        with saved_numbers() as saved:
            losses = token_loss.token_losses(head, hidden, targets)
        gradients = torch.autograd.grad(losses.sum(), (hidden, head.weight))
        found[chunk] = (losses, *gradients, sum(saved))
    for one, other in zip(found[4096][:3], found[16][:3], strict=True):
        torch.testing.assert_close(other, one, atol=1e-5, rtol=1e-5)
    assert found[16][3] < found[4096][3] / 10


def test_calls_for_other_processes_add_no_position() -> None:
    head = torch.nn.Linear(4, 10)
    hidden, targets = torch.randn(3, 4), torch.tensor([1, 2, 3])
    alone = token_loss.token_losses(head, hidden, targets)
    together = token_loss.token_losses(head, hidden, targets, lambda calls: calls + 2)
    assert together.equal(alone)
    assert token_loss.token_losses(head, hidden[:0], targets[:0], lambda calls: 2).shape == (0,)
