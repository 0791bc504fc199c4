import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_av.datasets.schema import Sample, Turn
from llava_av.datasets.split import SplitError, split_samples


def samples(names: list[str]) -> list[Sample]:
    turns = (Turn(speaker="human", value="?"), Turn(speaker="gpt", value="!"))
    return [Sample(id=name, conversations=turns) for name in names]


names = st.lists(st.text(st.characters(exclude_categories=("Cs",)), min_size=1), min_size=2, unique=True)
shares = st.floats(0.001, 0.999)


@given(names=names, share=shares, data=st.data())
def test_sides_are_whole_disjoint_and_independent_of_order(
    names: list[str], share: float, data: st.DataObject
) -> None:
    splits = split_samples(samples(names), share)
    sides = {side: [sample.id for sample in splits[side]] for side in splits}
    assert sides["train"]
    assert sides["held_out"]
    assert sorted(sides["train"] + sides["held_out"]) == sorted(names)
    assert sides["train"] == [name for name in names if name in set(sides["train"])]
    shuffled = split_samples(samples(data.draw(st.permutations(names))), share)
    assert {sample.id for sample in shuffled["held_out"]} == set(sides["held_out"])


@given(names=names, share=shares, data=st.data())
def test_adding_samples_moves_at_most_the_one_that_filled_an_empty_side(
    names: list[str], share: float, data: st.DataObject
) -> None:
    more = data.draw(st.lists(st.text("xyz", min_size=3), unique=True))
    before = split_samples(samples(names), share)
    after = split_samples(samples(list(dict.fromkeys(names + more))), share)
    held_out = [{sample.id for sample in splits["held_out"]} & set(names) for splits in (before, after)]
    moved = held_out[0] ^ held_out[1]
    assert len(moved) <= 1
    if len(before["held_out"]) > 1 and len(before["train"]) > 1:
        assert not moved


def test_share_is_about_kept() -> None:
    splits = split_samples(samples([f"sample-{number}" for number in range(2000)]), 0.1)
    assert 150 < len(splits["held_out"]) < 250


def test_sides_are_pinned() -> None:
    splits = split_samples(samples([f"sample-{number}" for number in range(20)]), 0.2)
    assert [sample.id for sample in splits["held_out"]] == [
        f"sample-{number}" for number in (1, 2, 9, 10, 14, 15, 19)
    ]


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_samples_are_refused(count: int) -> None:
    with pytest.raises(SplitError, match=f"this one has {count} usable"):
        split_samples(samples(["a"][:count]), 0.1)
