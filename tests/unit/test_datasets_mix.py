"""Samples of several dataset commits as one list."""

import pytest

from llava_av.datasets.mix import DatasetSplits, cap_samples, join
from llava_av.datasets.schema import Sample, Turn
from llava_av.datasets.sources.rows import DatasetError
from llava_av.recipe import DataRecipe, RecipeError

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
        digests={path: f"{content.hex():0>64}" for path, content in contents.items()},
        train=train,
        held_out=held_out,
    )


def test_samples_of_datasets_with_equal_names_are_told_apart() -> None:
    first = dataset("a", [sample("1", "x.mp4"), sample("2")], [sample("3", "y.mp4")])
    second = dataset("b", [sample("1", "x.mp4")], [sample("3", "y.mp4")])
    train, held_out, left_out = join([first, second])
    assert [(one.id, one.video, one.dataset) for one in train] == [
        ("a/1", ("copy-of-a/x.mp4",), "a"),
        ("a/2", (), "a"),
        ("b/1", ("copy-of-b/x.mp4",), "b"),
    ]
    assert [one.id for one in held_out] == ["a/3", "b/3"]
    assert left_out == {"a": 0, "b": 0}
    assert "dataset" not in train[0].to_json_line()


def test_media_that_another_dataset_holds_out_are_not_trained_on() -> None:
    first = dataset("a", [sample("1", "x.mp4"), sample("2", "z.mp4")], [sample("3", "y.mp4")], x="same")
    second = dataset("b", [sample("1", "v.mp4")], [sample("2", "w.mp4")], w="same")
    train, _, left_out = join([first, second])
    assert [one.id for one in train] == ["a/2", "b/1"]
    assert left_out == {"a": 1, "b": 0}


def test_a_dataset_without_training_samples_of_its_own_is_named() -> None:
    first = dataset("a", [sample("1", "x.mp4")], [sample("3", "y.mp4")], x="same")
    second = dataset("b", [sample("1", "v.mp4")], [sample("2", "w.mp4")], w="same")
    with pytest.raises(DatasetError, match="dataset a"):
        join([first, second])


def test_a_cap_draws_samples_about_the_same_media_together() -> None:
    samples = [sample(str(number), f"{number // 4}.mp4") for number in range(40)]
    drawn = cap_samples(samples, 12, 0)
    assert len(drawn) == 12
    assert len({one.video for one in drawn}) == 3
    assert list(drawn) == sorted(drawn, key=lambda one: int(one.id))
    assert cap_samples(samples, 12, 0) == drawn
    assert cap_samples(samples, 12, 1) != drawn
    assert cap_samples(samples, None, 0) == cap_samples(samples, 40, 0) == samples


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
