"""Steps that are not finite: the error names the samples, and nothing is updated."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import distributed

from llava_av.datasets.schema import Sample
from llava_av.datasets.unfit import UnfitSamplesError
from llava_av.media.clip import Clip
from llava_av.media.container import MediaError
from llava_av.model.media_inputs import MediaInputs
from llava_av.training.bad_samples import BadSamples
from llava_av.training.encoded_cache import EncodedCache
from llava_av.training.engines import Fragment
from llava_av.training.engines.torch_engine import TorchEngine
from llava_av.training.finite_checks import NonFiniteError, require_finite_state
from llava_av.training.loader import LoadedBatch
from llava_av.training.trainer import StepMetrics
from tests.loaded_steps import load_step, new_trainer
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

    def __init__(
        self,
        load: Callable[[Sample], Clip] = lambda sample: clip(int(sample.id[1:])),
        max_bad_share: float = 0.2,
        **overrides: object,
    ) -> None:
        recipe = tiny_recipe(training__num_processes=1, training__global_batch_size=12, **overrides)
        self.model, processor = tiny_model()
        self.bad = BadSamples(len(SAMPLES), max_bad_share)
        engine = TorchEngine(self.model.train(), recipe)
        self.trainer = new_trainer(engine, self.model, recipe, SAMPLES, self.bad)
        self.batch = load_step(SAMPLES, processor, EncodedCache(processor, load, max_bytes=2**24))
        [self.micro_batch] = self.batch.micro_batches
        # Frames in bytes are always finite.
        tensors = self.micro_batch.tensors
        tensors["pixel_values_videos"] = MediaInputs.from_arguments(tensors).normalised_frames()

    def take(self, batch: LoadedBatch | None = None) -> StepMetrics:
        """Take a step with a batch, by default its first one."""
        return self.trainer.measure(self.trainer.step(batch or self.batch))

    def refused(self) -> NonFiniteError:
        before = {name: weight.clone() for name, weight in self.model.state_dict().items()}
        with pytest.raises(NonFiniteError) as caught:
            self.take()
        assert all(weight.equal(before[name]) for name, weight in self.model.state_dict().items())
        assert "\n" not in str(caught.value)
        return caught.value


def test_a_finite_step_passes() -> None:
    tried = Tried()
    assert math.isfinite(tried.take()["loss"])
    tried.trainer.require_finite_state(tried.batch)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_the_samples_whose_own_loss_is_not_finite_are_named(value: float) -> None:
    tried = Tried()
    place = tried.batch.ids.index("s7")
    tried.micro_batch.tensors["pixel_values_videos"].unflatten(0, (12, -1))[place] = value
    error = tried.refused()
    assert "step 0: the loss is not finite (samples s7);" in str(error)
    assert error.report.culprits == ("s7",)
    assert sorted(error.report.samples) == sorted(sample.id for sample in SAMPLES)


def test_steps_that_are_not_finite_are_skipped_until_they_are_too_many_in_a_row(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tried = Tried(training__max_non_finite_steps=2)
    weights = {name: weight.clone() for name, weight in tried.model.state_dict().items()}
    pixels = tried.micro_batch.tensors["pixel_values_videos"]
    good = pixels.clone()
    pixels.unflatten(0, (12, -1))[0] = math.nan
    metrics = tried.take()
    assert "loss" not in metrics
    assert all(map(math.isfinite, metrics.values()))
    assert all(weight.equal(weights[name]) for name, weight in tried.model.state_dict().items())
    report = tried.trainer.non_finite.take_report()
    assert report is not None
    assert (report.step, report.culprits) == (0, (tried.batch.ids[0],))
    assert tried.trainer.non_finite.take_report() is None
    assert f"step 0 was not applied: the loss is not finite (samples {tried.batch.ids[0]})" in caplog.text
    tried.micro_batch.tensors["pixel_values_videos"] = good
    assert math.isfinite(tried.take()["loss"])
    assert not all(weight.equal(weights[name]) for name, weight in tried.model.state_dict().items())
    pixels[:] = math.nan
    tried.micro_batch.tensors["pixel_values_videos"] = pixels
    tried.take()
    with pytest.raises(NonFiniteError, match="training stopped at step 0"):
        tried.take()


def test_samples_that_fail_to_decode_are_left_out_until_they_are_too_many(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def load(sample: Sample) -> Clip:
        if sample.id in ("s3", "s5"):
            raise MediaError(Path(sample.video[0]), "it is cut short")
        return clip(int(sample.id[1:]))

    tried = Tried(load=load)
    assert sorted(tried.batch.ids) == sorted({sample.id for sample in SAMPLES} - {"s3", "s5"})
    assert math.isfinite(tried.take()["loss"])
    assert {one.id for one in tried.bad.found} == {"s3", "s5"}
    assert "left out: sample s3: 3.mp4: it is cut short" in caplog.text
    # The same samples of a later epoch count once.
    tried.take()
    strict = Tried(load=load, max_bad_share=0.1)
    with pytest.raises(UnfitSamplesError, match="2 of 12 samples"):
        strict.take()


def test_a_step_of_which_no_sample_decodes_updates_nothing(caplog: pytest.LogCaptureFixture) -> None:
    broken: set[str] = set()

    def load(sample: Sample) -> Clip:
        if sample.id in broken:
            raise MediaError(Path(sample.video[0]), "it is cut short")
        return clip(int(sample.id[1:]))

    tried = Tried(load=load, max_bad_share=0.95)
    # Momentum and weight decay would move the weights of a step without gradients.
    tried.take()
    broken |= {sample.id for sample in SAMPLES[:11]}
    _, processor = tiny_model()
    batch = load_step(SAMPLES[:11], processor, EncodedCache(processor, load, max_bytes=2**24))
    assert (batch.ids, len(batch.failed)) == ((), 11)
    before = {name: weight.clone() for name, weight in tried.model.state_dict().items()}
    metrics = tried.take(batch)
    assert "loss" not in metrics
    assert all(map(math.isfinite, metrics.values()))
    assert all(weight.equal(before[name]) for name, weight in tried.model.state_dict().items())
    assert {one.id for one in tried.bad.found} == broken
    assert f"step {batch.step} was not applied: none of its samples decodes" in caplog.text


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
    tried.micro_batch.tensors["labels"][:] = -100
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


def test_groups_of_a_stage_are_released_with_it() -> None:
    def groups() -> int:
        return len(distributed.distributed_c10d._world.pg_map)

    before = groups()
    tried = Tried()
    model, _ = tiny_model()
    engine = TorchEngine(model.train(), tiny_recipe(training__num_processes=1, training__precision="bf16"))
    assert groups() == before + 2
    tried.trainer.close()
    engine.close()
    assert groups() == before
