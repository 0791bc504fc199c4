"""Steps that are not finite: the error names the samples, and nothing is updated."""

import math
from collections.abc import Iterator

import pytest
import torch
from torch import distributed

from llava_av.datasets.schema import Sample
from llava_av.training.engines import Fragment
from llava_av.training.engines.torch_engine import TorchEngine
from llava_av.training.finite_checks import NonFiniteError, require_finite_state
from llava_av.training.loader import EncodedCache, LoadedBatch, batches
from llava_av.training.order import SampleOrder
from llava_av.training.trainer import Trainer
from tests.model_samples import clip, tiny_model, tiny_recipe

SAMPLES = [
    Sample.model_validate(
        {
            "id": f"s{number}",
            "kind": "colour",
            "video": [f"{number}.mp4"],
            "conversations": [{"from": "human", "value": "<video>\nWhat?"}, {"from": "gpt", "value": "red"}],
        }
    )
    for number in range(12)
]


@pytest.fixture(scope="module", autouse=True)
def _group() -> Iterator[None]:
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


class Tried:
    """A trainer over clips of noise, and its first batch."""

    def __init__(self, **overrides) -> None:
        recipe = tiny_recipe(training__num_processes=1, training__global_batch_size=12, **overrides)
        self.model, processor = tiny_model()
        self.trainer = Trainer(
            TorchEngine(self.model.train(), recipe),
            self.model.config,
            recipe,
            SAMPLES,
            torch.device("cpu"),
        )
        cache = EncodedCache(processor, lambda sample: clip(int(sample.id[1:])), max_bytes=2**24)
        order = SampleOrder(SAMPLES, seed=0, recipe=recipe.training)
        self.batch: LoadedBatch = next(
            iter(batches(SAMPLES, processor, cache, order, steps=range(1), rank=0, processes=1))
        )

    def refused(self) -> NonFiniteError:
        before = {name: weight.clone() for name, weight in self.model.state_dict().items()}
        with pytest.raises(NonFiniteError) as caught:
            self.trainer.step(self.batch)
        assert all(weight.equal(before[name]) for name, weight in self.model.state_dict().items())
        assert "\n" not in str(caught.value)
        return caught.value


def test_a_finite_step_passes() -> None:
    tried = Tried()
    assert math.isfinite(tried.trainer.step(tried.batch)["loss"])
    tried.trainer.require_finite_state(tried.batch)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_the_samples_whose_own_loss_is_not_finite_are_named(value: float) -> None:
    tried = Tried()
    place = tried.batch.ids.index("s7")
    tried.batch.tensors["pixel_values_videos"].unflatten(0, (12, -1))[place] = value
    error = tried.refused()
    assert "step 0: the loss is not finite (samples s7);" in str(error)
    assert error.report.culprits == ("s7",)
    assert sorted(error.report.samples) == sorted(sample.id for sample in SAMPLES)


def test_all_samples_of_a_step_are_named_if_it_may_be_any() -> None:
    tried = Tried()
    for weight in tried.model.language_model.lm_head.parameters():
        weight.register_hook(lambda gradient: gradient * math.inf)
    error = tried.refused()
    assert "the gradient norm is not finite (samples " in str(error)
    assert " and 4 more)" in str(error)
    assert sorted(error.report.culprits) == sorted(sample.id for sample in SAMPLES)


def test_a_step_without_labels_is_refused() -> None:
    tried = Tried()
    tried.batch.tensors["labels"][:] = -100
    assert "no token is labelled" in str(tried.refused())


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_state_that_is_not_finite_is_refused(value: float) -> None:
    good, bad = torch.ones(2), torch.tensor([1.0, value])

    def fragment(weight: torch.Tensor, moment: torch.Tensor) -> Fragment:
        return Fragment(name="w", start=0, weight=weight, moments={"exp_avg": moment}, updates=None)

    require_finite_state(4, [fragment(good, -good)], ["s1"], 1e-3)
    for pair in ((bad, good), (good, -bad)):
        with pytest.raises(NonFiniteError, match=r"step 4: the updated weights .* \(samples s1\)"):
            require_finite_state(4, [fragment(good, good), fragment(*pair)], ["s1"], 1e-3)
