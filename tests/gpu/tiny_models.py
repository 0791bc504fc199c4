"""A tiny model on the GPU, and its loss and gradients."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.gpu_samples import SampleData
from llava_av.model import LlavaAvForConditionalGeneration
from llava_av.model.sequence.packing import pack_rows

GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
"""Marks of each test that needs a GPU."""
DEVICE = torch.device("cuda")
ROW = 256


@dataclass(frozen=True, kw_only=True)
class Trained:
    """Result of one forward and backward pass."""

    losses: Tensor
    """Mean loss of each sample."""
    gradients: Mapping[str, Tensor]

    def assert_close_to(self, other: "Trained", bound: float) -> None:
        """Compare losses by their value, and gradients relative to the largest element of all."""
        torch.testing.assert_close(self.losses, other.losses, atol=bound, rtol=0)
        assert self.gradients.keys() == other.gradients.keys()
        largest = max(float(one.abs().max()) for one in other.gradients.values())
        differences = {
            name: float((one - other.gradients[name]).abs().max()) for name, one in self.gradients.items()
        }
        assert max(differences.values()) <= bound * largest


def tiny_data() -> SampleData:
    return SampleData.draw("onevision-0.5b", 12, ROW, small=True)


def tiny_model(data: SampleData, dtype: torch.dtype, attention: str = "sdpa") -> Any:
    """Return the same model each time, in evaluation mode, so that nothing is dropped at random."""
    torch.manual_seed(0)
    build: Any = LlavaAvForConditionalGeneration._from_config
    model = build(copy.deepcopy(data.processor.config), dtype=torch.float32).to(DEVICE, dtype)
    model.language_model.set_attn_implementation(attention)
    return model.eval()


def apart(data: SampleData) -> tuple[dict[str, Tensor], list[int]]:
    """Return one sample per row, and the index of each."""
    return data.processor.collate(data.encoded), list(range(len(data.encoded)))


def packed(data: SampleData) -> tuple[dict[str, Tensor], list[int]]:
    """Return packed rows, and the index of each of their samples."""
    rows = pack_rows([len(one.input_ids) for one in data.encoded], ROW)
    assert 1 < len(rows) < len(data.encoded)
    samples = [[data.encoded[index] for index in row] for row in rows]
    return data.processor.collate_packed(samples, length=ROW), [index for row in rows for index in row]


def trained(model: Any, batch: Mapping[str, Tensor], order: Sequence[int]) -> Trained:
    """Return losses in the order of the samples, and gradients by name."""
    output = model(**{name: tensor.to(DEVICE) for name, tensor in batch.items()})
    output.loss.backward()
    means = (output.loss_sums / output.loss_counts).detach().float().cpu()
    losses = torch.empty_like(means)
    losses[list(order)] = means
    found = {name: one.grad for name, one in model.named_parameters() if one.grad is not None}
    return Trained(losses=losses, gradients={name: one.float().cpu() for name, one in found.items()})
