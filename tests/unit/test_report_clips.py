from pathlib import Path

import pytest

from llava_av.report.run_report.clips import ClipCard, choose_clips
from llava_av.runs import Prediction

MIB = 2**20


def asked(
    clip: str | None, *, right: bool = True, kind: str = "visual", **changes: object
) -> list[Prediction]:
    """Return one question about a clip under two ablations; `right` applies to all modalities."""
    fields = {
        "id": f"{clip}-{kind}",
        "kind": kind,
        "question": "Which?",
        "answer": "red",
        "clip": clip,
        "loss": 0.0,
        **changes,
    }
    return [
        Prediction.model_validate(
            {**fields, "ablation": name, "reply": "red" if good else "blue", "parsed": "x", "correct": good}
        )
        for name, good in (("text_only", False), ("av", right))
    ]


def choose(
    rows: list[Prediction], files: dict[str, Path] | None = None, *, count: int = 8, max_bytes: int = MIB
) -> tuple[ClipCard, ...]:
    return choose_clips(rows, files or {}, count=count, max_bytes=max_bytes)


def test_clips_answered_wrong_come_first_and_some_right_ones_follow() -> None:
    rows = [row for index in range(40) for row in asked(f"{index:02d}.mp4", right=index % 2 == 0)]
    cards = choose(rows)
    assert [card.wrong for card in cards] == [True] * 6 + [False] * 2
    assert [card.name for card in cards[:2]] == ["01.mp4", "03.mp4"]


def test_few_wrong_clips_leave_room_for_right_ones() -> None:
    rows = [row for index in range(40) for row in asked(f"{index:02d}.mp4", right=index != 30)]
    cards = choose(rows)
    assert [card.wrong for card in cards] == [True] + [False] * 7


def test_all_wrong_fill_every_card() -> None:
    rows = [row for index in range(40) for row in asked(f"{index:02d}.mp4", right=False)]
    assert [card.wrong for card in choose(rows)] == [True] * 8


def test_without_wrong_answers_clips_spread_over_the_kinds() -> None:
    rows = [row for index in range(20) for row in asked(f"a{index:02d}.mp4", kind="audio")]
    rows += [row for index in range(20) for row in asked(f"b{index:02d}.mp4", kind="visual")]
    kinds = [card.questions[0].kind for card in choose(rows)]
    assert sorted(kinds) == ["audio"] * 4 + ["visual"] * 4


def test_within_a_kind_the_clip_with_the_largest_loss_comes_first() -> None:
    rows = [row for index in range(20) for row in asked(f"{index:02d}.mp4", loss=index / 10)]
    assert [card.name for card in choose(rows, count=3)] == ["19.mp4", "18.mp4", "17.mp4"]
    assert choose(rows, count=1)[0].questions[0].loss == 1.9


def test_a_reply_that_names_no_choice_is_cut_and_does_not_lengthen_the_card() -> None:
    rows = asked("a.mp4", choices=("red", "blue"))
    rows[0] = rows[0].model_copy(update={"reply": "red" * 60, "parsed": None})
    (card,) = choose(rows)
    assert not card.long
    assert [len(reply.text) for reply in card.questions[0].replies if reply] == [3, 30]
    answer = [
        row.model_copy(update={"answer": "a sentence of more than thirty-two characters"}) for row in rows
    ]
    (card,) = choose(answer)
    assert card.long
    assert [len(reply.text) for reply in card.questions[0].replies if reply] == [3, 180]


def test_the_order_of_predictions_does_not_matter() -> None:
    rows = [row for index in range(20) for row in asked(f"{index:02d}.mp4", right=index % 3 == 0)]
    assert [card.name for card in choose(rows)] == [card.name for card in choose(rows[::-1])]


def test_a_card_has_its_questions_wrong_ones_first_and_a_reply_for_each_ablation() -> None:
    rows = asked("a.mp4", kind="audio") + asked("a.mp4", kind="visual", right=False)
    (card,) = choose(rows)
    assert card.ablations == ("av", "text_only")
    assert [question.kind for question in card.questions] == ["visual", "audio"]
    assert [reply.verdict for reply in card.questions[1].replies if reply] == ["right", "wrong"]


def test_several_questions_of_one_conversation_stay_apart() -> None:
    rows = asked("a.mp4", id="talk", question="First?") + asked("a.mp4", id="talk", question="Second?")
    (card,) = choose(rows)
    assert [question.text for question in card.questions] == ["First?", "Second?"]


def test_more_questions_than_fit_are_counted() -> None:
    rows = [row for index in range(9) for row in asked("a.mp4", question=f"{index}?")]
    (card,) = choose(rows)
    assert (len(card.questions), card.more_questions) == (6, 3)


def test_a_reply_that_names_no_choice_is_unparsed() -> None:
    row = asked("a.mp4", right=False)[1].model_copy(update={"parsed": None})
    (card,) = choose([row])
    assert [reply.verdict for reply in card.questions[0].replies if reply] == ["unparsed"]


def test_long_answers_leave_the_columns() -> None:
    rows = asked("a.mp4") + asked("b.mp4", answer="He crosses the street and waves to a woman.")
    assert [card.long for card in choose(rows)] == [False, True]


def test_an_ablation_in_which_a_question_was_not_asked_stays_empty() -> None:
    rows = asked("a.mp4", kind="audio") + asked("a.mp4", kind="visual")[1:]
    (card,) = choose(rows)
    assert card.questions[1].replies[1] is None


def test_media_are_embedded_smallest_first_up_to_the_limit(tmp_path: Path) -> None:
    files = {}
    for name, size in (("a.mp4", 3000), ("b.mp4", 600), ("c.mp4", 900)):
        files[name] = tmp_path / name
        files[name].write_bytes(b"x" * size)
    rows = [row for name in files for row in asked(name)]
    cards = {card.name: card for card in choose(rows, files, max_bytes=2000)}
    assert cards["a.mp4"].media is None
    assert "3 kB" in cards["a.mp4"].left_out
    embedded = [card.media.uri for card in cards.values() if card.media]
    assert len(embedded) == 2
    assert sum(len(uri.partition(",")[2]) for uri in embedded) == 2000


@pytest.mark.parametrize(
    ("name", "element", "start"),
    [
        ("a.MP4", "video", "data:video/mp4;base64,"),
        ("a.wav", "audio", "data:audio/wav;base64,"),
        ("a.png", "image", "data:image/png;base64,"),
    ],
)
def test_each_kind_of_media_has_its_element(tmp_path: Path, name: str, element: str, start: str) -> None:
    (tmp_path / name).write_bytes(b"bytes")
    (card,) = choose(asked(name), {name: tmp_path / name})
    assert card.media
    assert card.media.element == element
    assert card.media.uri == start + "Ynl0ZXM="


def test_media_that_cannot_be_shown_are_named_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "a.avi").write_bytes(b"bytes")
    rows = asked("a.avi") + asked("gone.mp4") + asked(None, id="text")
    reasons = {card.name: card.left_out for card in choose(rows, {"a.avi": tmp_path / "a.avi"})}
    assert ".avi" in reasons["a.avi"]
    assert "missing" in reasons["gone.mp4"]
    assert "no clip" in reasons["text"]


def test_no_predictions_no_cards() -> None:
    assert choose([]) == ()
