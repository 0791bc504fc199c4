"""Order of samples, and learning rate."""

import itertools
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_av.datasets.schema import Sample, Turn
from llava_av.recipe import OptimizerRecipe, TrainingRecipe
from llava_av.training.order import SampleOrder, absent_warmup_kinds, undrawn_datasets
from llava_av.training.schedule import learning_rate_at

TURNS = (Turn(speaker="human", value="Which?"), Turn(speaker="gpt", value="red"))


def split(sizes):
    """Make samples in groups that share a video; size 0 is a text-only sample."""
    samples = []
    for group, size in enumerate(sizes):
        media = (f"{group}.mp4",) if size else ()
        samples += [
            Sample(id=f"{group}-{number}", conversations=TURNS, video=media) for number in range(max(1, size))
        ]
    return tuple(samples)


def in_order(samples, seed, batch_size, **settings):
    recipe = TrainingRecipe(steps=1, global_batch_size=batch_size, num_processes=1, **settings)
    return SampleOrder(samples, seed=seed, recipe=recipe)


def test_a_stage_starts_with_the_first_samples_of_its_order():
    recipe = TrainingRecipe(
        steps=9, global_batch_size=2, num_processes=1, warmup_kinds=["a"], warmup_kind_steps=2
    )
    samples = tuple(one.model_copy(update={"kind": "ab"[i % 2]}) for i, one in enumerate(split([1] * 7)))
    own, stage = (SampleOrder(samples, seed=3, recipe=recipe, first_step=first) for first in (0, 40))
    assert [stage.step(40 + step) for step in range(9)] == [own.step(step) for step in range(9)]


sizes = st.lists(st.integers(0, 4), min_size=1, max_size=12)


@given(sizes=sizes, seed=st.integers(0, 5), epochs=st.integers(1, 3), batch_size=st.integers(1, 9))
def test_every_sample_comes_once_an_epoch(sizes, seed, epochs, batch_size):
    samples = split(sizes)
    steps = -(-epochs * len(samples) // batch_size)
    order_of = in_order(samples, seed, batch_size)
    order = [index for step in range(steps) for index in order_of.step(step)]
    for epoch in range(epochs):
        part = order[epoch * len(samples) : (epoch + 1) * len(samples)]
        assert sorted(part) == list(range(len(samples)))


@given(sizes=sizes, seed=st.integers(0, 5))
def test_samples_of_one_clip_stay_together(sizes, seed):
    samples = split(sizes)
    order = in_order(samples, seed, len(samples)).step(0)
    runs = [samples[index].video or (samples[index].id,) for index in order]
    changes = sum(first != second for first, second in itertools.pairwise(runs))
    assert changes == len(Counter(runs)) - 1


@given(sizes=sizes, seed=st.integers(0, 5), steps=st.integers(1, 4))
def test_the_first_steps_draw_from_their_kinds_and_later_ones_from_all(sizes, seed, steps):
    samples = split(sizes)
    kinds = tuple(
        sample.model_copy(update={"kind": "joint" if i % 3 else "audio"}) for i, sample in enumerate(samples)
    )
    order = in_order(kinds, seed, 2, warmup_kinds=["audio"], warmup_kind_steps=steps)
    early = [index for step in range(steps) for index in order.step(step)]
    assert {kinds[index].kind for index in early} == {"audio"}
    plain = in_order(kinds, seed, 2)
    assert [order.step(steps + step) for step in range(4)] == [plain.step(step) for step in range(4)]
    absent = in_order(samples, seed, 2, warmup_kinds=["audio"], warmup_kind_steps=steps)
    assert absent.step(0) == in_order(samples, seed, 2).step(0)


@pytest.mark.parametrize(
    ("kinds", "steps", "absent"),
    [(("audio", "speech"), 3, ("speech",)), (("audio",), 3, ()), (("speech",), 0, ())],
)
def test_warmup_kinds_without_samples_are_found(kinds, steps, absent):
    samples = [sample.model_copy(update={"kind": "audio"}) for sample in split([1, 1])]
    recipe = TrainingRecipe(steps=1, global_batch_size=2, warmup_kinds=kinds, warmup_kind_steps=steps)
    assert absent_warmup_kinds(samples, recipe) == absent


def of_datasets(sizes_by_name, *, together=1):
    return tuple(
        Sample(
            id=f"{name}/{number}", conversations=TURNS, video=(f"{name}/{number // together}.mp4",)
        ).model_copy(update={"dataset": name})
        for name, size in sizes_by_name.items()
        for number in range(size)
    )


def mixed(samples, weights, *, seed=0, batch_size=8, **settings):
    recipe = TrainingRecipe(steps=1, global_batch_size=batch_size, num_processes=1, **settings)
    return SampleOrder(samples, seed=seed, recipe=recipe, weights=weights)


@pytest.mark.parametrize("weights", [{"a": 1, "b": 1, "c": 2}, {"a": 30, "b": 3, "c": 7}])
def test_each_epoch_has_the_weighted_share_of_each_dataset(weights):
    samples = of_datasets({"a": 10, "b": 100, "c": 50})
    order = mixed(samples, weights, batch_size=16)
    whole = sum(weights.values())
    for epoch in range(3):
        drawn = [index for step in range(10 * epoch, 10 * epoch + 10) for index in order.step(step)]
        counts = Counter(samples[index].dataset for index in drawn)
        assert counts == {name: 160 * weight / whole for name, weight in weights.items()}


def test_a_dataset_is_exhausted_before_a_sample_of_it_comes_again():
    samples = of_datasets({"a": 7, "b": 21})
    order = mixed(samples, {"a": 1, "b": 1}, batch_size=4)
    drawn = [samples[index] for step in range(42) for index in order.step(step)]
    for name, size in (("a", 7), ("b", 21)):
        own = [sample.id for sample in drawn if sample.dataset == name]
        assert len(own) == 84
        assert set(Counter(own).values()) == {84 // size}


@pytest.mark.parametrize(
    ("weights", "undrawn"),
    [({}, ()), ({"a": 1, "b": 1}, ()), ({"a": 0.1, "b": 1}, ()), ({"a": 1e-6, "b": 1}, ("a",))],
)
def test_datasets_whose_weight_gives_no_sample_are_found(weights, undrawn):
    samples = of_datasets({"a": 4, "b": 6})
    assert undrawn_datasets(samples, weights) == undrawn
    if weights:
        order = mixed(samples, weights, batch_size=10)
        drawn = {samples[index].dataset for step in range(4) for index in order.step(step)}
        assert drawn == {"a", "b"} - set(undrawn)


def test_a_mix_depends_on_seed_and_step_alone_and_keeps_clips_together():
    samples = of_datasets({"a": 40, "b": 40}, together=4)
    weights = {"a": 3, "b": 1}
    order = mixed(samples, weights)
    steps = [order.step(step) for step in range(20)]
    assert [mixed(samples, weights).step(step) for step in range(19, -1, -1)] == steps[::-1]
    assert mixed(samples, weights, seed=1).step(0) != steps[0]
    whole = [samples[index].video for step in steps[:10] for index in step]
    changes = sum(first != second for first, second in itertools.pairwise(whole))
    # 80 samples of clips with four each; at most one clip of each dataset is divided among epochs.
    assert changes <= 20 + 2


def test_warmup_kinds_of_a_mix_come_from_the_datasets_that_have_them():
    samples = [
        sample.model_copy(update={"kind": "audio" if sample.dataset == "a" else "joint"})
        for sample in of_datasets({"a": 10, "b": 10})
    ]
    order = mixed(samples, {"a": 1, "b": 9}, warmup_kinds=["audio"], warmup_kind_steps=2)
    assert {samples[index].dataset for step in range(2) for index in order.step(step)} == {"a"}
    later = Counter(samples[index].dataset for step in range(2, 7) for index in order.step(step))
    assert later == {"a": 4, "b": 36}


def test_epochs_and_seeds_differ():
    samples = split([1] * 50)
    zero, one = (in_order(samples, seed, 50) for seed in (0, 1))
    first = zero.step(0)
    assert zero.step(1) != first
    assert zero.step(0) == first
    assert one.step(0) != first


def test_learning_rate_warms_up_and_decays_to_its_floor():
    recipe = OptimizerRecipe(learning_rate=1e-3, warmup_steps=10, min_lr_ratio=0.1)
    rates = [learning_rate_at(step, 100, recipe) for step in range(100)]
    assert rates[0] == pytest.approx(1e-4)
    assert rates[10] == pytest.approx(1e-3)
    assert max(rates) == pytest.approx(1e-3)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert 1e-4 <= rates[-1] < 1.02e-4


def test_rate_stays_at_its_peak_until_it_decays():
    recipe = OptimizerRecipe(learning_rate=1e-3, warmup_steps=10, decay_ratio=0.3)
    rates = [learning_rate_at(step, 110, recipe) for step in range(110)]
    assert rates[10:81] == [1e-3] * 71
    assert all(later < earlier for earlier, later in itertools.pairwise(rates[80:]))
    assert rates[-1] == pytest.approx(recipe.min_lr_ratio * 1e-3, rel=0.03)
