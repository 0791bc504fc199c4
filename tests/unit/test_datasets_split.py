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
    with pytest.raises(SplitError, match=f"at least 2 usable samples, .* but has {count}: add"):
        split_samples(samples(["a"][:count]), 0.1)


def about(media: dict[str, tuple[str, ...]], **split: str) -> list[Sample]:
    """Return samples by ID with the files that they name."""
    turns = [{"from": "human", "value": "?"}, {"from": "gpt", "value": "!"}]
    return [
        Sample.model_validate(
            {"id": name, "conversations": turns, "video": files, "split": split.get(name.replace("-", "_"))}
        )
        for name, files in media.items()
    ]


def sides(media: dict[str, tuple[str, ...]], share: float = 0.1, **more: object) -> dict[str, set[str]]:
    splits = split_samples(about(media), share, **more)  # type: ignore[arg-type]
    return {side: {sample.id for sample in samples} for side, samples in splits.items()}


def questions(clips: int, each: int, first: int = 0) -> dict[str, tuple[str, ...]]:
    return {
        f"q{clip:04}-{number}": (f"{clip}.mp4",)
        for clip in range(first, first + clips)
        for number in range(each)
    }


def test_questions_about_one_clip_stay_together() -> None:
    asked = questions(clips=664, each=3)
    held_out = sides(asked)["held_out"]
    assert {asked[name] for name in held_out}.isdisjoint(asked[name] for name in asked.keys() - held_out)
    assert 0.08 < len(held_out) / len(asked) < 0.12


@given(
    st.lists(st.lists(st.sampled_from("abcdefghij"), max_size=3), min_size=3, max_size=14),
    st.floats(0.01, 0.99),
)
def test_no_file_is_ever_on_both_sides(named: list[list[str]], share: float) -> None:
    media = {"text": (), **{f"s{number}": tuple(files) for number, files in enumerate(named)}}
    digests = dict.fromkeys("ab", "same content") | {name: f"content of {name}" for name in "cdefghij"}
    found = sides(media, share, digests=digests)
    content = {
        side: {digests[file] for name in names for file in media[name]} for side, names in found.items()
    }
    assert content["train"].isdisjoint(content["held_out"])
    assert found["train"]
    assert found["held_out"]
    assert found["train"] | found["held_out"] == media.keys()


def test_copies_of_a_clip_count_as_one_by_content_and_across_samples() -> None:
    media = {"a": ("1.mp4",), "b": ("copy.mp4", "2.mp4"), "c": ("2.mp4", "3.mp4"), "d": ("9.mp4",)}
    digests = {"1.mp4": "x", "copy.mp4": "x", "2.mp4": "y", "3.mp4": "z", "9.mp4": "w"}
    for share in (0.1, 0.5, 0.9):
        found = sides(media, share, digests=digests)
        assert {"a", "b", "c"} in found.values()


def test_more_clips_move_no_sample_and_a_joining_sample_moves_one_clip() -> None:
    before = sides(questions(clips=300, each=3))
    after = sides(questions(clips=450, each=3))
    known = questions(clips=300, each=3).keys()
    assert after["held_out"] & known == before["held_out"]
    joined = {**questions(clips=300, each=3), "both": ("5.mp4", "6.mp4")}
    moved = sides(joined)["held_out"] ^ before["held_out"]
    assert len({joined[name] for name in moved - {"both"}}) <= 1


@pytest.mark.parametrize("seed", range(20))
def test_few_large_clips_come_as_near_to_the_share_as_they_can(seed: int) -> None:
    even = sides(questions(clips=20, each=50, first=1000 * seed))
    assert 0.05 <= len(even["held_out"]) / 1000 <= 0.15
    few = sides(questions(clips=3, each=40, first=1000 * seed))
    assert len(few["held_out"]) == 40
    giant = {f"giant-{number}": ("giant.mp4",) for number in range(800)}
    mixed = sides({**giant, **questions(clips=40, each=5, first=1000 * seed)})
    assert not mixed["held_out"] & giant.keys()
    assert 50 <= len(mixed["held_out"]) <= 150


def test_a_samples_own_split_wins_and_takes_its_clip_along() -> None:
    media = questions(clips=20, each=2)
    stated = about(media, q0000_0="held_out", q0001_1="train", q0002_0="held_out", q0002_1="held_out")
    splits = split_samples(stated, 0.001)
    assert {sample.id for sample in splits["held_out"]} == {f"q000{c}-{n}" for c in (0, 2) for n in (0, 1)}
    everything_else = split_samples(about(media, q0000_0="train"), 0.999)
    assert {"q0000-0", "q0000-1"} <= {sample.id for sample in everything_else["train"]}


def test_one_clip_stated_on_both_sides_is_refused_with_both_ids() -> None:
    media = {**questions(clips=9, each=1), "a": ("x.mp4",), "b": ("y.mp4",), "c": ("x.mp4", "y.mp4")}
    with pytest.raises(SplitError, match=r"sample 'a' with split train .* 'c' with split held_out .*x\.mp4"):
        split_samples(about(media, a="train", c="held_out"), 0.1)
    with pytest.raises(SplitError, match=r"'a' with split train .* 'b' with split held_out .*other samples"):
        split_samples(about(media, a="train", b="held_out"), 0.1)
    allowed = split_samples(about(media, a="train", c="held_out"), 0.1, allow_shared_media=True)
    assert "c" in {sample.id for sample in allowed["held_out"]}
    assert "a" in {sample.id for sample in allowed["train"]}


def test_samples_that_all_share_media_cannot_be_split_unless_it_is_said() -> None:
    media = questions(clips=1, each=8)
    with pytest.raises(SplitError, match=r"all 8 samples share media \(0\.mp4\).*--allow-shared-media"):
        sides(media)
    assert sides(media, allow_shared_media=True)["held_out"]


def test_all_samples_stated_on_one_side_are_refused() -> None:
    with pytest.raises(SplitError, match=r"every sample is in split train, .* set `split` to held_out"):
        split_samples(about({"a": ("a.mp4",), "b": ("b.mp4",)}, a="train", b="train"), 0.1)
