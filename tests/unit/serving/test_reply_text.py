"""Text of replies while tokens arrive."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_av.serving.reply_text import ReplyText
from tests.model_samples import tiny_model


class Bytes:
    """Tokenizer with one token per byte."""

    def decode(self, tokens: list[int], skip_special_tokens: bool) -> str:
        assert skip_special_tokens
        return bytes(tokens).decode(errors="replace")


def pieces(text: str, *stop: str) -> tuple[list[str], bool]:
    reply = ReplyText(Bytes(), stop)
    found = []
    for token in text.encode():
        found.append(reply.add(token))
        if reply.stopped:
            return found, True
    return [*found, reply.end()], reply.stopped


@given(st.text())
def test_the_pieces_are_the_text_and_no_character_is_cut(text):
    found, _ = pieces(text)
    assert "".join(found) == text
    if "\N{REPLACEMENT CHARACTER}" not in text:
        assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in found)


@given(st.text("abc"), st.lists(st.text("abc", min_size=1), min_size=1))
def test_nothing_from_the_first_stop_text_on_is_passed_on(text, stops):
    found, stopped = pieces(text, *stops)
    # the text is read character by character, so the stop text that ends first counts
    ends = [place + len(stop) for stop in stops if (place := text.find(stop)) >= 0]
    seen = text[: min(ends)] if ends else text
    assert (
        "".join(found) == seen[: min((seen.find(stop) for stop in stops if stop in seen), default=len(seen))]
    )
    assert stopped == bool(ends)


@pytest.mark.parametrize(("text", "expected"), [("ab", ["", "", "ab"]), ("abd", ["", "", "abd", ""])])
def test_what_may_be_a_stop_text_waits(text, expected):
    assert pieces(text, "abc")[0] == expected


def test_a_real_tokenizers_words_and_characters_are_whole():
    _, processor = tiny_model()
    text = "Which colour is shown? Ein Ton — 音 🎬"
    reply = ReplyText(processor.tokenizer)
    found = [reply.add(token) for token in processor.tokenizer.encode(text)]
    assert "".join([*found, reply.end()]) == text
    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in found)
