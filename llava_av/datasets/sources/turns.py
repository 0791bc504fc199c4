"""Rows of other tools as lines of `conversations.jsonl`: chat messages, query and response, ShareGPT."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypedDict

__all__ = ["Unreadable", "has_system_prompt", "line_of"]

_SPEAKERS = {
    **dict.fromkeys(("human", "user"), "human"),
    **dict.fromkeys(("gpt", "assistant", "bot", "model", "chatgpt"), "gpt"),
    "system": "system",
}
# Keys of a question and of its answer; the first that a row has counts.
_ASKED = ("query", "question", "instruction", "prompt")
_ANSWERED = ("response", "answer", "output", "completion")
_PARTS = ("image", "video", "audio")

_Turn = TypedDict("_Turn", {"from": str, "value": object})
_Turns = list[_Turn]


class Unreadable(ValueError):
    """A row that is not a conversation; the text says why."""


def has_system_prompt(row: Mapping[str, object]) -> bool:
    """Check whether a row that `line_of` accepts has a system prompt."""
    return any(turn["from"] == "system" for turn in _turns(row)[0])


def line_of(row: Mapping[str, object]) -> dict[str, object]:
    """Return a row in the form of `conversations.jsonl`, with the media named in its messages.

    Raises:
        Unreadable: Its turns have none of the known forms.
    """
    turns, used = _turns(row)
    media: dict[str, list[str]] = {}
    conversations: _Turns = []
    system = ""
    for turn in turns:
        text = _text(turn["value"], media)
        if turn["from"] == "system":
            system += f"{text}\n\n"
        elif turn["from"] == "human":
            conversations.append({"from": "human", "value": system + text})
            system = ""
        else:
            conversations.append({"from": "gpt", "value": text})
    if system:
        raise Unreadable("a system prompt follows the last question: put it before a question")
    rest = {key: value for key, value in row.items() if key not in used}
    both = sorted(media.keys() & (rest.keys() | {key.removesuffix("s") for key in rest}))
    if both:
        raise Unreadable(f"{both[0]} files are named both in the messages and in a key: keep one")
    return {**rest, **media, "conversations": conversations}


def _turns(row: Mapping[str, object]) -> tuple[_Turns, tuple[str, ...]]:
    """Return the turns of a row, including system prompts, and the keys that contained them."""
    for key in ("conversations", "messages"):
        turns = _listed(row.get(key))
        if isinstance(turns, Sequence) and not isinstance(turns, str):
            return [_turn(turn, number) for number, turn in enumerate(turns, start=1)], (key,)
    pairs = row.get("texts")
    if isinstance(pairs, Sequence) and not isinstance(pairs, str):
        return [turn for number, pair in enumerate(pairs, start=1) for turn in _spoken(pair, number)], (
            "texts",
        )
    asked = next((key for key in _ASKED if row.get(key)), None)
    answered = next((key for key in _ANSWERED if key in row), None)
    if asked is None or answered is None:
        one, other, given = "/".join(_ASKED), "/".join(_ANSWERED), ", ".join(row)
        raise Unreadable(
            f"has neither conversations, messages, texts nor {one} with {other}; its non-empty keys: {given}"[
                :300
            ]
        )
    used = (asked, answered, "history", "system", *(["input"] if asked == "instruction" else []))
    return _pair(row, asked, answered), used


def _spoken(pair: object, number: int) -> _Turns:
    """Return the turns of an entry of `texts`, as in The Cauldron."""
    if not isinstance(pair, Mapping) or not {"user", "assistant"} <= pair.keys():
        raise Unreadable(f"texts entry {number} is {str(pair)[:100]!r}, without user and assistant")
    return [{"from": "human", "value": pair["user"]}, {"from": "gpt", "value": pair["assistant"]}]


def _listed(turns: object) -> object:
    """Return a list of turns; Hugging Face's `Sequence` of a mapping is stored as a mapping of lists."""
    if not isinstance(turns, Mapping) or not all(isinstance(value, list) for value in turns.values()):
        return turns
    return [dict(zip(turns, values, strict=False)) for values in zip(*turns.values(), strict=False)]


def _turn(turn: object, number: int) -> _Turn:
    fields = turn if isinstance(turn, Mapping) else {}
    role = fields.get("from", fields.get("role"))
    speaker = _SPEAKERS.get(role.lower()) if isinstance(role, str) else None
    value = fields.get("value", fields.get("content"))
    if speaker is None:
        raise Unreadable(
            f"turn {number} is by {role!r} with {value!r}: known are {', '.join(_SPEAKERS)}"[:300]
        )
    if value is None:
        raise Unreadable(f"turn {number} by {role} has no text: remove it")
    return {"from": speaker, "value": value}


def _pair(row: Mapping[str, object], asked: str, answered: str) -> _Turns:
    question = row[asked]
    if asked == "instruction" and row.get("input"):
        question = f"{_plain(question, asked)}\n{_plain(row['input'], 'input')}"
    turns: _Turns = [{"from": "system", "value": row["system"]}] if row.get("system") else []
    history = row.get("history") or []
    if not isinstance(history, list):
        raise Unreadable(f"its history is {str(history)[:100]!r}, not a list of [question, answer]")
    for pair in history:
        if not isinstance(pair, list) or len(pair) != 2:
            raise Unreadable(f"its history contains {str(pair)[:100]!r}, not [question, answer]")
        turns += [{"from": "human", "value": pair[0]}, {"from": "gpt", "value": pair[1]}]
    return [*turns, {"from": "human", "value": question}, {"from": "gpt", "value": row[answered]}]


def _is_text(value: Any) -> bool:
    """Return whether a value is text or a number; NaN is how pandas writes a cell that is empty."""
    return isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))


def _plain(value: Any, name: str) -> str:
    if not _is_text(value):
        raise Unreadable(f"{name} is {str(value)[:100]!r}, not text")
    return str(value)


def _text(value: Any, media: dict[str, list[str]]) -> str:
    """Return the text of a turn; media become placeholders, and their paths are added to `media`."""
    if _is_text(value):
        return str(value)
    texts: list[str] = []
    for part in value if isinstance(value, Iterable) and not isinstance(value, Mapping) else [value]:
        kind = str(part.get("type", "")).removesuffix("_url") if isinstance(part, Mapping) else ""
        if kind == "text":
            texts.append(_plain(part.get("text"), "the text of a message"))
        elif kind in _PARTS:
            texts.append(f"<{kind}>\n")
            media.setdefault(kind, []).extend(_part_paths(part, kind))
        else:
            raise Unreadable(
                f"a message contains {str(part)[:100]!r}, which is neither text nor {', '.join(_PARTS)}"
            )
    return "".join(texts)


def _part_paths(part: Mapping[str, object], kind: str) -> list[str]:
    """Return the path of a message's media part, if the part names one."""
    path = part.get(kind, part.get(f"{kind}_url", part.get("path", part.get("url"))))
    path = path.get("url") if isinstance(path, Mapping) else path
    if not isinstance(path, str | None):
        raise Unreadable(f"a message contains a {kind} named {str(path)[:100]!r}: name one file")
    return [] if path is None else [path]
