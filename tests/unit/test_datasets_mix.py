"""Samples of several dataset commits as one list."""

import numpy as np
import pytest

from llava_av.datasets.mix import DatasetMix, DatasetSplits, cap_samples
from llava_av.datasets.ranges import FileRow
from llava_av.datasets.sample_columns import take
from llava_av.datasets.schema import Sample, Turn
from llava_av.datasets.sources.rows import DatasetError
from llava_av.recipe import DataRecipe, RecipeError, TrainingRecipe
from llava_av.training.order import SampleOrder

TURNS = (Turn(speaker="human", value="Which?"), Turn(speaker="gpt", value="red"))


def sample(name: str, *video: str) -> Sample:
    return Sample(id=name, conversations=TURNS, video=video)


def dataset(name: str, train: list[Sample], held_out: list[Sample], **digests: str) -> DatasetSplits:
    """Return a dataset whose file `x.mp4` has the digest `digests["x"]`, else one of its own."""
    paths = {path for one in (*train, *held_out) for path in one.media}
    contents = {path: digests.get(path.removesuffix(".mp4"), f"{name}{path}").encode() for path in paths}
    return DatasetSplits(
        name=name,
        folder=f"copy-of-{name}",
        files=[FileRow(path, f"{content.hex():0>64}", 1) for path, content in contents.items()],
        train=train,
        held_out=held_out,
    )


def test_samples_of_datasets_with_equal_names_are_told_apart() -> None:
    first = dataset("a", [sample("1", "x.mp4"), sample("2")], [sample("3", "y.mp4")])
    second = dataset("b", [sample("1", "x.mp4")], [sample("3", "y.mp4")])
    mix = DatasetMix([first, second])
    train, left_out = mix.train()
    assert [(one.id, one.video, one.dataset) for one in train] == [
        ("a/1", ("copy-of-a/x.mp4",), "a"),
        ("a/2", (), "a"),
        ("b/1", ("copy-of-b/x.mp4",), "b"),
    ]
    assert [one.id for one in mix.held_out] == ["a/3", "b/3"]
    assert left_out == {"a": 0, "b": 0}
    assert "dataset" not in train[0].to_json_line()


def test_media_that_another_dataset_holds_out_are_not_trained_on() -> None:
    first = dataset("a", [sample("1", "x.mp4"), sample("2", "z.mp4")], [sample("3", "y.mp4")], x="same")
    second = dataset("b", [sample("1", "v.mp4")], [sample("2", "w.mp4")], w="same")
    train, left_out = DatasetMix([first, second]).train()
    assert [one.id for one in train] == ["a/2", "b/1"]
    assert left_out == {"a": 1, "b": 0}


def test_a_dataset_without_training_samples_of_its_own_is_named() -> None:
    first = dataset("a", [sample("1", "x.mp4")], [sample("3", "y.mp4")], x="same")
    second = dataset("b", [sample("1", "v.mp4")], [sample("2", "w.mp4")], w="same")
    with pytest.raises(DatasetError, match="dataset a"):
        DatasetMix([first, second]).train()


def test_a_cap_draws_samples_about_the_same_media_together() -> None:
    samples = [sample(str(number), f"{number // 4}.mp4") for number in range(40)]
    drawn = cap_samples(samples, 12, 0)
    assert len(drawn) == 12
    assert len({one.video for one in drawn}) == 3
    assert list(drawn) == sorted(drawn, key=lambda one: int(one.id))
    assert cap_samples(samples, 12, 0) == drawn
    assert cap_samples(samples, 12, 1) != drawn
    assert cap_samples(samples, None, 0) == cap_samples(samples, 40, 0) == samples


@pytest.mark.parametrize("weights", [{}, {"a": 1.0, "b": 3.0}])
def test_the_order_of_a_mix_is_that_of_the_same_samples_in_memory(weights: dict[str, float]) -> None:
    def samples(count: int) -> list[Sample]:
        media = ((f"{number // 3}.mp4",) if number % 5 else () for number in range(count))
        kinds = ("colour", "tone")
        return [
            sample(str(number), *video).model_copy(update={"kind": kinds[number % 2]})
            for number, video in enumerate(media)
        ]

    first = dataset("a", samples(50), samples(4))
    second = dataset("b", samples(20), [sample("9", "w.mp4")], w="same", **{"3": "same"})
    train, left_out = DatasetMix([second, first]).train({"a": 40, "b": None}.get, seed=3)
    plain = tuple(train)
    assert (len(plain), left_out) == (60, {"a": 0, "b": 0})
    places = np.array([41, 3, 20])
    assert tuple(take(train, places)) == (plain[41], plain[3], plain[20]) == tuple(train[at] for at in places)
    assert train[-2:] == plain[-2:]
    recipe = TrainingRecipe(steps=30, global_batch_size=7, warmup_kinds=("tone",), warmup_kind_steps=4)
    lazy, known = (SampleOrder(one, seed=1, recipe=recipe, weights=weights) for one in (train, plain))
    for step in range(30):
        assert lazy.step(step) == known.step(step)
        assert lazy.next_uses(step) == known.next_uses(step)


@pytest.mark.parametrize(
    ("mix", "named"),
    [
        ({"c": {"weight": 1}}, r"data\.mix\.c .* a, b"),
        ({"a": {"weight": 1}}, "none for b"),
        ({"a": {"weight": 1}, "b": {"max_samples": 3}}, "none for b"),
    ],
)
def test_a_mix_that_does_not_fit_the_datasets_is_refused(mix: dict[str, object], named: str) -> None:
    with pytest.raises(RecipeError, match=named):
        DataRecipe.model_validate({"mix": mix}).require_datasets(["a", "b"])


def test_a_mix_of_weights_and_caps_is_accepted() -> None:
    mix = {"a": {"weight": 2, "max_samples": 5}, "b": {"weight": 1}}
    data = DataRecipe.model_validate({"mix": mix})
    data.require_datasets(["a", "b"])
    assert (data.weight("a"), data.max_samples("a"), data.max_samples("b")) == (2, 5, None)
    DataRecipe.model_validate({"mix": {"a": {"max_samples": 5}}}).require_datasets(["a", "b"])
