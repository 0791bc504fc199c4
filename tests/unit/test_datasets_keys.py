"""Keys of a user's lines: aliases, misspelt keys, other formats, blank texts and ignored keys."""

import json
from typing import Any

import pytest

from llava_av.datasets.schema import Sample, SampleError, parse_sample, parse_stored
from llava_av.datasets.sources.line_keys import EXAMPLE, KEYS

TURNS = [{"from": "human", "value": "What is it?"}, {"from": "gpt", "value": "a cat"}]


def parsed(**changes: Any) -> Sample:
    return parse_sample(json.dumps({"id": "a", "conversations": TURNS, **changes}), 7)


def refusal(**changes: Any) -> str:
    with pytest.raises(SampleError) as caught:
        parsed(**changes)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("line 7: ")
    return caught.value.reason


def test_keys_are_those_of_a_sample_and_the_example_is_valid() -> None:
    # A sample of a run of several datasets also has the name of its own, which is no key.
    assert set(KEYS) == set(Sample.model_fields) - {"dataset"}
    assert parse_sample(EXAMPLE, 1).video == ("clip.mp4",)


@pytest.mark.parametrize("kind", ["image", "video", "audio"])
@pytest.mark.parametrize("ending", ["s", "_path", "_paths", "_file", "_files"])
def test_media_keys_of_other_tools_are_aliases(kind: str, ending: str) -> None:
    asked = [{"from": "human", "value": f"<{kind}>\n<{kind}>\nWhich?"}, TURNS[1]]
    assert getattr(parsed(**{kind + ending: ["1", "2"]}, conversations=asked), kind) == ("1", "2")
    assert getattr(parsed(**{kind + ending: "1.bin", kind: "1.bin"}), kind) == ("1.bin",)
    assert "given twice" in refusal(**{kind + ending: "1", kind: "2"})


def test_a_value_that_equals_nothing_is_not_called_a_second_one() -> None:
    assert refusal(id=float("nan")).startswith("id: must be text")


def test_audio_of_a_video_under_the_key_of_other_tools() -> None:
    assert parsed(video="a.mp4", use_audio_in_video=False).use_audio is False


@pytest.mark.parametrize(
    ("key", "value", "near"),
    [
        ("vidoe", "a", "video"),
        ("vedio", ["a"], "video"),
        ("Video", "a", "video"),
        ("vidoes", ["a"], "video"),
        ("iamge", "a", "image"),
        ("imagess", "a", "image"),
        ("auido", "a", "audio"),
        ("choises", ["x", "y"], "choices"),
        ("choice", ["x", "y"], "choices"),
        ("knid", "joint", "kind"),
        ("splitt", "train", "split"),
        ("use_adio", False, "use_audio"),
        ("use-audio", True, "use_audio"),
        ("choises", {"A": "x"}, "choices"),
        ("convresations", TURNS, "conversations"),
    ],
)
def test_misspelt_keys_are_refused_with_the_nearest(key: str, value: Any, near: str) -> None:
    reason = refusal(**{key: value})
    assert f"unknown key {key!r}" in reason
    assert f"did you mean {near!r}" in reason


@pytest.mark.parametrize("key", ["ID", "_id", "idx"])
def test_a_misspelt_id_is_named_only_if_there_is_none(key: str) -> None:
    with pytest.raises(SampleError, match=rf"unknown key '{key}': did you mean 'id'"):
        parse_sample(json.dumps({key: "a", "conversations": TURNS}), 1)
    assert parsed(**{key: 3}) == parsed()


@pytest.mark.parametrize(("key", "near"), [("form", "from"), ("From", "from"), ("vlaue", "value")])
def test_misspelt_keys_of_turns_are_refused_with_the_nearest(key: str, near: str) -> None:
    turn = {key if name == near else name: value for name, value in TURNS[0].items()}
    reason = refusal(conversations=[turn, TURNS[1]])
    assert f"turn 1 has the unknown key {key!r}: did you mean {near!r}" in reason
    assert parsed(conversations=[{**TURNS[0], key: "x"}, TURNS[1]]) == parsed()


@pytest.mark.parametrize(
    "more",
    [
        {"clip": "a.mp4"},
        {"file": "clips/A.JPG"},
        {"image": "a.jpg", "second": ["b.png"]},
        {"extra": {"deep": ["x", {"path": "a.wav"}]}},
        {"video_id": "abc"},
        {"url": "https://example.org/a.mp4"},
        {"conversations": [{**TURNS[0], "image": "a.png"}, TURNS[1]]},
    ],
)
def test_media_under_keys_that_nothing_reads_are_refused(more: dict[str, Any]) -> None:
    assert "name media files under image, video or audio" in refusal(**more)


@pytest.mark.parametrize(
    ("key", "value", "meant"),
    [
        ("options", ["red", "blue"], "choices"),
        ("options", {"A": "red"}, "choices"),
        ("Options", "red;blue", "choices"),
        ("set", "test", "split"),
        ("set", "Training", "split"),
    ],
)
def test_other_words_for_a_key_are_refused(key: str, value: object, meant: str) -> None:
    assert refusal(**{key: value}).startswith(f"unknown key {key!r}: did you mean {meant!r}?")


def test_a_set_that_is_no_split_is_metadata() -> None:
    assert parsed(set="webvid") == parsed()


def test_metadata_is_ignored() -> None:
    sample = parsed(
        image="a.jpg",
        image_id="000012",
        image_w=336,
        image_size=[336, 336],
        image_ids=["1"],
        images=[],
        deep=json.loads("[" * 900 + "]" * 900),
        source="coco",
        model="x",
        conversation_id="12",
        coco_url="https://example.org/a.jpg",
        sounds=None,
        metadata={"file": "raw/a.mov", "vidoe": "b.mp4"},
    )
    assert sample == parsed(image="a.jpg")


@pytest.mark.parametrize("said", ["val", "validation", "test", "held-out", "Held_Out", "eval"])
def test_splits_by_the_names_that_people_use(said: str) -> None:
    assert parsed(split=said).split == "held_out"
    assert parsed(split="training").split == "train"
    assert parsed(split=None).split is None
    assert refusal(split="third").startswith("split: must be 'train' or 'held_out'")


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]},
        {"query": "Hi", "response": "Hello", "images": ["a.jpg"]},
        {"instruction": "Hi", "output": "Hello"},
        {"id": "a", "conversations": [{"role": "user", "content": "Hi"}]},
        {
            "id": "a",
            "conversations": [{"from": "user", "value": "Hi"}, {"from": "assistant", "value": "Yes"}],
        },
        {"id": "a", "conversations": [{"from": "system", "value": "Be kind."}, *TURNS]},
    ],
)
def test_other_formats_are_refused_with_a_valid_line_and_the_command(row: dict[str, Any]) -> None:
    with pytest.raises(SampleError) as caught:
        parse_sample(json.dumps(row), 1)
    assert EXAMPLE in caught.value.reason
    assert "llava-av data convert" in caught.value.reason


@pytest.mark.parametrize("blank", ["  \n", "\t", "\u3000\u00a0", "\u2028"])
def test_blank_answers_and_questions_are_refused(blank: str) -> None:
    assert refusal(conversations=[TURNS[0], {"from": "gpt", "value": blank}]).startswith("turn 2 from gpt is")
    asked = [{"from": "human", "value": blank}, TURNS[1]]
    assert refusal(conversations=asked).startswith("turn 1 from human is blank")
    assert parsed(conversations=asked, image="a.jpg").image == ("a.jpg",)
    assert refusal(conversations=[*TURNS, *asked], image="a.jpg").startswith("turn 3 from human is blank")


@pytest.mark.parametrize(
    "mark", ["\u200b", "\u2060\ufeff", "\u3164", "\u2800 ", "\u00ad", "\u0000", "\U000e0100\u180b"]
)
def test_invisible_text_is_unusable(mark: str) -> None:
    assert "turn 2 from gpt" in refusal(conversations=[TURNS[0], {"from": "gpt", "value": mark}])
    assert "turn 1 from human" in refusal(conversations=[{"from": "human", "value": mark}, TURNS[1]])
    assert "choices" in refusal(choices=["a", mark])
    assert "id" in refusal(id=mark)


@pytest.mark.parametrize(
    ("kind", "usable"), [("joint_x", True), ("色 1", True), ("a/b", False), ("?", False)]
)
def test_kinds_are_parts_of_metric_names(kind: str, usable: bool) -> None:
    if usable:
        assert parsed(kind=kind).kind == kind
    else:
        assert "cannot be part of a metric's name" in refusal(kind=kind)


def test_lines_of_older_commits_stay_readable() -> None:
    old = {"id": "a", "conversations": [TURNS[0], {"from": "gpt", "value": " \n"}], "kind": "a/b"}
    assert parse_stored(json.dumps(old), 1).conversations[1].value == " \n"


@pytest.mark.parametrize("key", ["video", "id", "conversations"])
def test_a_key_that_stands_twice_is_an_error(key: str) -> None:
    line = json.dumps({"id": "1", "video": "a.mp4", "conversations": TURNS})
    twice = f'{line[:-1]}, "{key}": null}}'
    with pytest.raises(SampleError, match=rf"the key '{key}' appears twice"):
        parse_sample(twice, 1)
    assert parse_stored(twice.replace("null", json.dumps(json.loads(line)[key])), 1).id == "1"
