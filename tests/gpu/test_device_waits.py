"""A step on a GPU: the host waits for nothing before the metrics."""

import math

import torch

from benchmarks.gpu_models import SHAPES
from llava_av.model.batch_layout import BatchLayout
from llava_av.training.engines.torch_engine import TorchEngine
from llava_av.training.loader import MicroBatch
from llava_av.training.step_totals import StepTotals, loss_columns
from tests.gpu.tiny_models import DEVICE, GPU, ROW, packed, tiny_data, tiny_model

pytestmark = GPU


class Steps:
    """Steps of a tiny model on packed rows in pinned memory."""

    def __init__(self) -> None:
        data = tiny_data()
        model = tiny_model(data, torch.float32).train()
        # A trained audio tower draws the spans that SpecAugment masks on the host.
        model.audio_tower.requires_grad_(False)
        settings = SHAPES["0.5B, all parts"].with_rows(ROW, precision="fp32")
        self.engine = TorchEngine(model, settings)
        batch, _ = packed(data)
        self.layout = BatchLayout.of(data.processor.config, batch)
        self.tensors = {name: one.pin_memory() for name, one in batch.items()}

    def take(self, scale: float = 1.0) -> StepTotals:
        totals = StepTotals(loss_columns(()))
        moved = {name: one.to(DEVICE, non_blocking=True) for name, one in self.tensors.items()}
        output = self.engine.model(**moved, layout=self.layout)
        self.engine.backward(output.loss_sums.sum() * scale, last=True)
        totals.add(MicroBatch(tensors=moved), output.loss_sums, output.loss_counts)
        totals.send(self.engine.step(1e-3))
        return totals


def test_a_step_does_not_wait_for_the_device():
    steps = Steps()
    # The first step allocates memory and the state of the optimizer.
    steps.take().receive()
    torch.cuda.set_sync_debug_mode("error")
    try:
        totals = steps.take()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert math.isfinite(totals.receive()[0])


def test_the_device_skips_an_update_that_is_not_finite():
    steps = Steps()
    steps.take().receive()
    before = [(one.updates.clone(), one.weight.clone()) for one in steps.engine.fragments()]
    assert not math.isfinite(steps.take(math.inf).receive()[0])
    for (updates, weight), one in zip(before, steps.engine.fragments(), strict=True):
        assert torch.equal(updates, one.updates)
        assert torch.equal(weight, one.weight)
