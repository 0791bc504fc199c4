"""Steps that do not wait for their device.

The meta device has no values: reading one there is an error, as it would be a wait on a GPU.
"""

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, distributed
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from llava_av.media.clip import Clip
from llava_av.model.batch_layout import BatchLayout
from llava_av.training.engines.torch_engine import TorchEngine
from llava_av.training.loader import MicroBatch
from llava_av.training.step_totals import StepTotals, loss_columns
from tests.fused_optimizer import fused_adamw
from tests.model_samples import clip, image, tiny_model, tiny_recipe, waveform

TURNS = [("human", "Which colour is shown?"), ("gpt", "red")]
CLIPS = (
    clip(1),
    Clip(images_nhwc=(image(),)),
    Clip(audios=(waveform(samples=9_000),)),
    Clip(),
    clip(0, samples=None),
)
META = torch.device("meta")
READS = {torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default}


class BlockingCopies(TorchDispatchMode):
    """Names of operations that copy from the host to the meta device, and would wait for a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
        # PyTorch passes single numbers to a kernel as its arguments.
        from_host = any(one.device.type == "cpu" and one.ndim for one in tensors)
        devices = {one.device for one in tensors} | {kwargs.get("device")}
        if from_host and META in devices and not kwargs.get("non_blocking"):
            self.found.append(str(func))
        return func(*args, **kwargs)


class Reads(TorchDispatchMode):
    """Operations that read values, for which a host would wait on a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in READS:
            self.found.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.fixture(scope="module", autouse=True)
def _group() -> Iterator[None]:
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def batch_of(processor: Any, clips: tuple[Clip, ...], *, packed: bool) -> tuple[dict[str, Any], BatchLayout]:
    encoded = [processor.encode(TURNS, one) for one in clips]
    if packed:
        longest = sum(len(one.input_ids) for one in encoded)
        tensors = processor.collate_packed([encoded[:1], encoded[1:]], length=longest)
    else:
        tensors = processor.collate(encoded)
    return tensors, BatchLayout.of(processor.config, tensors)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("changes", "clips"),
    [
        ({"model__video_newline": "frame"}, CLIPS),
        ({"model__slow_fast": {"every": 2, "stride": 2}}, CLIPS),
        ({}, (Clip(), Clip())),
    ],
    ids=["everything", "slow-fast", "text"],
)
def test_forward_and_backward_pass_read_nothing_from_the_device(changes, clips, packed):
    model, processor = tiny_model(**changes)
    model.train().to(META)
    tensors, layout = batch_of(processor, clips, packed=packed)
    moved = {name: one.to(META) for name, one in tensors.items()}
    with BlockingCopies() as copies:
        output = model(**moved, layout=layout)
        output.loss_sums.sum().backward()
    assert copies.found == []
    assert len(output.loss_sums) == len(clips)
    assert all(one.grad is not None for one in model.parameters() if one.requires_grad)
    with pytest.raises((NotImplementedError, RuntimeError)):
        model(**moved)


@pytest.mark.parametrize("packed", [False, True])
def test_a_layout_changes_no_number(packed):
    model, processor = tiny_model(model__video_newline="frame")
    tensors, layout = batch_of(processor, CLIPS, packed=packed)
    found = model(**tensors, layout=layout)
    wanted = model(**tensors)
    assert torch.equal(found.loss_sums, wanted.loss_sums)
    assert torch.equal(found.loss_counts, wanted.loss_counts)


@pytest.fixture
def _fused() -> Iterator[None]:
    with fused_adamw():
        yield


class Steps:
    """An engine around a tiny model, and the totals of its steps."""

    def __init__(self) -> None:
        self.model, processor = tiny_model()
        recipe = tiny_recipe(training__num_processes=1)
        self.engine = TorchEngine(self.model.train(), recipe)
        self.tensors, self.layout = batch_of(processor, CLIPS, packed=False)

    def take(self, scale: float = 1.0) -> StepTotals:
        totals = StepTotals(loss_columns(()))
        output = self.engine.model(**self.tensors, layout=self.layout)
        self.engine.backward(output.loss_sums.sum() * scale, last=True)
        totals.add(MicroBatch(tensors=self.tensors), output.loss_sums, output.loss_counts)
        totals.send(self.engine.step(1e-3))
        return totals


@pytest.mark.usefixtures("_fused")
def test_a_step_reads_one_value_and_only_when_its_metrics_are_received():
    steps = Steps()
    before = steps.take()
    with Reads() as reads:
        after = steps.take()
    assert reads.found == []
    with Reads() as reads:
        norm, _ = before.receive()
    assert len(reads.found) == 1
    assert math.isfinite(norm)
    assert after.receive()[0] != norm


@pytest.mark.usefixtures("_fused")
def test_the_device_skips_an_update_that_is_not_finite():
    steps, never = Steps(), Steps()
    assert not math.isfinite(never.take(math.nan).receive()[0])
    assert all(one.updates is None and not one.moments for one in never.engine.fragments())
    steps.take()
    before = [
        (one.name, one.updates.item(), *map(torch.clone, one.tensors.values()))
        for one in steps.engine.fragments()
    ]
    assert before
    assert not math.isfinite(steps.take(math.inf).receive()[0])
    after = [(one.name, one.updates.item(), *one.tensors.values()) for one in steps.engine.fragments()]
    for (name, updates, *old), (same_name, same_updates, *new) in zip(before, after, strict=True):
        assert (name, updates) == (same_name, same_updates)
        assert all(map(torch.equal, old, new))
    assert math.isfinite(steps.take().receive()[0])
    assert not all(
        torch.equal(one[2], two.weight) for one, two in zip(before, steps.engine.fragments(), strict=True)
    )
