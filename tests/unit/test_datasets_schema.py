import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_av.datasets.schema import (
    _PLACEHOLDERS,
    _RESERVED,
    Sample,
    SampleError,
    Turn,
    parse_sample,
    parse_stored,
    to_jsonl,
)
from llava_av.model.sequence.tokenizer import PADDING, PLACEHOLDERS, TURN_END, TURN_START, train_tokenizer
from llava_av.vocabulary import family_of

TURNS = [{"from": "human", "value": "<video>\nWhat is it?"}, {"from": "gpt", "value": "a cat"}]


def line(**changes: Any) -> str:
    data = {"id": "a", "video": "a.mp4", "conversations": TURNS, **changes}
    return json.dumps({key: value for key, value in data.items() if value is not ...})


text = st.text(st.characters(exclude_categories=("Cs",)), min_size=1).filter(lambda value: "<" not in value)

words = text.filter(str.strip)


@given(
    name=text,
    replies=st.lists(st.tuples(words, words), min_size=1, max_size=3),
    media=st.tuples(*[st.lists(text, max_size=2)] * 3),
    use_audio=st.booleans(),
    kind=text,
    choices=st.lists(text, max_size=3),
)
def test_a_sample_survives_its_json_line(
    name: str,
    replies: list[tuple[str, str]],
    media: tuple[list[str], ...],
    use_audio: bool,
    kind: str,
    choices: list[str],
) -> None:
    turns = [
        Turn(speaker=speaker, value=value)
        for pair in replies
        for speaker, value in zip(("human", "gpt"), pair, strict=True)
    ]
    image, video, audio = (tuple(paths) for paths in media)
    sample = Sample(
        id=name,
        conversations=tuple(turns),
        image=image,
        video=video,
        audio=audio,
        use_audio=use_audio,
        kind=kind,
        choices=tuple(choices),
    )
    written = sample.to_json_line()
    assert "\n" not in written
    assert parse_stored(written, 1) == sample
    assert parse_stored(written.encode(), 1).to_json_line() == written


def test_llava_form_is_read() -> None:
    sample = parse_sample(line(video=["a.mp4"], id=33, image=None, model="x", extra={"deep": [1]}), 1)
    assert sample.id == "33"
    assert sample.video == ("a.mp4",)
    assert sample.image == ()
    assert sample.media == ("a.mp4",)
    assert (sample.use_audio, sample.kind, sample.choices) == (True, "all", ())
    assert sample.conversations[1] == Turn(speaker="gpt", value="a cat")
    assert parse_sample(line(), 1).video == ("a.mp4",)
    assert parse_sample(line(use_audio=False), 1).use_audio is False


def test_canonical_line_leaves_defaults_out() -> None:
    sample = parse_sample(line(), 1)
    assert sample.to_json_line() == (
        '{"conversations":[{"from":"human","value":"<video>\\nWhat is it?"},{"from":"gpt","value":"a cat"}],'
        '"id":"a","video":["a.mp4"]}'
    )
    assert to_jsonl([sample, sample]) == 2 * (sample.to_json_line() + "\n")


HUMAN, GPT = TURNS


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("{", "not valid JSON: Expecting property name enclosed in double quotes at column 2"),
        ("", "not valid JSON"),
        ("[1]", "not a JSON object but a list"),
        ("3", "not a JSON object but a number"),
        ("null", "not a JSON object but null"),
        ("[" * 100_000, "not usable JSON"),
        ('{"id": ' + "9" * 5000 + "}", "not usable JSON"),
        (b'{"id": "\xff"}', "not valid UTF-8 text (invalid start byte at position 8)"),
        ('{"id": "\\ud800"}', "not valid UTF-8 text"),
        (line(id=...), "id is missing"),
        (line(id=""), "id: must not be empty, got ''"),
        (line(id=True), "id: must be text, got True"),
        (line(conversations=...), "conversations is missing"),
        (line(conversations=[]), "conversations: must not be empty, got []"),
        (line(conversations="hello"), "conversations: must be a list, got 'hello'"),
        (line(conversations=[GPT, HUMAN]), "turn 1 is from gpt, not from human"),
        (line(conversations=[HUMAN]), "the last turn is from human"),
        (line(conversations=[HUMAN, HUMAN]), "turn 2 is from human, not from gpt"),
        (line(conversations=[HUMAN, {"from": "gpt"}]), "turn 2 value is missing"),
        (line(conversations=[HUMAN, {**GPT, "value": ""}]), "turn 2 value: must not be empty, got ''"),
        (
            line(conversations=[{**HUMAN, "from": "robot"}, GPT]),
            "turn 1 from: must be 'human' or 'gpt', got 'robot'",
        ),
        (line(video=...), "1 <video> in the conversation, but 0 video files"),
        (line(video=3), "video: must be a list, got 3"),
        (line(video=["a.mp4", ""]), "video.1: must not be empty"),
        (line(use_audio="maybe"), "use_audio: must be true or false, got 'maybe'"),
    ],
)
def test_bad_lines_are_reported_by_number_and_field(bad: str | bytes, reason: str) -> None:
    with pytest.raises(SampleError) as caught:
        parse_sample(bad, 7)
    assert caught.value.reason.startswith(reason)
    assert str(caught.value) == f"line 7: {caught.value.reason}"
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("token", [PADDING, TURN_START, TURN_END, *PLACEHOLDERS.values()])
@pytest.mark.parametrize("speaker", ["human", "gpt"])
def test_the_tokenizers_own_tokens_are_refused_in_text(token: str, speaker: str) -> None:
    turns = [{**turn, "value": f"a {token}b"} if turn["from"] == speaker else turn for turn in TURNS]
    number = 1 if speaker == "human" else 2
    with pytest.raises(SampleError) as caught:
        parse_sample(line(conversations=turns), 1)
    assert caught.value.reason == f"turn {number} from {speaker} contains the reserved text {token}"


def test_what_is_reserved_is_what_the_tokenizer_reads_as_more_than_text() -> None:
    special = train_tokenizer(["a"], 300).all_special_tokens
    assert set(_RESERVED) == set(special) == {PADDING, TURN_START, TURN_END, *PLACEHOLDERS.values()}
    assert {f"<{name}>" for name in PLACEHOLDERS} == set(_PLACEHOLDERS)


@pytest.mark.parametrize("placeholder", _PLACEHOLDERS)
def test_an_answer_cannot_contain_a_placeholder(placeholder: str) -> None:
    turns = [HUMAN, {**GPT, "value": f"see {placeholder}"}]
    with pytest.raises(SampleError, match=f"turn 2 from gpt contains the reserved text {placeholder}"):
        parse_sample(line(conversations=turns, image="a.png", audio="a.wav", video=["a.mp4"] * 2), 1)


@given(st.one_of(st.text(), st.binary()))
def test_no_line_gives_another_error(anything: str | bytes) -> None:
    with pytest.raises(SampleError):
        parse_sample(anything, 1)


def test_family_is_the_part_before_the_underscore() -> None:
    assert [family_of(kind) for kind in ("visual", "joint_colour", "joint_side", "all")] == [
        "visual",
        "joint",
        "joint",
        "all",
    ]
