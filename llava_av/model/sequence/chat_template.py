"""Conversations as text by any tokenizer's chat template, and where the assistant speaks in it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from llava_av.model.sequence.template_rendering import TemplateRefusedError, rendered

__all__ = ["MARKS", "ChatTemplate", "Rendered"]

MARKS: Mapping[str, str] = {"image": "<image>", "video": "<video>", "audio": "<audio>"}
"""What stands for a medium in a user's text, by kind."""

_PROBE = "llavaavprobe"
_OPENING_MARKS = re.compile(r"\s*(<image>|<video>|<audio>)\s*")


@dataclass(frozen=True, kw_only=True)
class Rendered:
    """A conversation as text."""

    text: str
    """One placeholder token for each medium."""
    spans: tuple[tuple[int, int], ...]
    """First character and the one after the last of each assistant's turn, its end token among them."""


class ChatTemplate:
    """One tokenizer's template, with what it does not say about media and about the end of a turn.

    Args:
        tokenizer: brings the template.
        tokens: placeholder tokens by kind of medium, of those kinds that the model knows.

    Raises:
        ValueError: the tokenizer has no template, or one that leaves out or refuses what is said.
        ModelFilesError: the template takes more time, memory or text than any chat needs.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, tokens: Mapping[str, str]) -> None:
        if not tokenizer.chat_template:
            raise ValueError(
                f"tokenizer {tokenizer.name_or_path or type(tokenizer).__name__} has no chat template"
            )
        self._tokenizer = tokenizer
        self._text = str(tokenizer.get_chat_template())
        self._tokens = dict(tokens)
        self._lists = self._takes_lists()
        self._known = {kind for kind in tokens if self._lists and self._places(kind)}
        self._end, self._added_end = self._turn_end()

    def for_media(self) -> str:
        """The template with a beginning that lets it take messages with any media that the model knows."""
        missing = [kind for kind in self._tokens if kind not in self._known]
        if not missing:
            return self._text
        return _media_first(missing, self._tokens, flat=not self._lists) + self._text

    def render(self, turns: Sequence[tuple[str, str]], *, reply: bool = False) -> Rendered:
        """Renders a conversation.

        Args:
            turns: role (`user`, `assistant`, `system`) and text; `<image>`, `<video>` and `<audio>` in a
                user's text stand for media.
            reply: end with the opening of an assistant's turn.

        Raises:
            ValueError: the template changes or leaves out an assistant's turn, or refuses the conversation.
        """
        probes = {place: f"{_PROBE}{place}x" for place, (role, _) in enumerate(turns) if role == "assistant"}
        messages = [self._message(role, probes.get(place, text)) for place, (role, text) in enumerate(turns)]
        skeleton = self._apply(messages, reply=reply)
        pieces, spans, done, length = [], [], 0, 0
        for place, probe in probes.items():
            if skeleton.count(probe) != 1:
                raise ValueError(
                    f"the chat template shows turn {place + 1} {skeleton.count(probe)} times, not once"
                )
            before = skeleton[done : skeleton.index(probe)]
            done = skeleton.index(probe) + len(probe)
            end = self._end if skeleton.startswith(self._end, done) else ""
            done += len(end)
            said = turns[place][1] + (end or self._added_end)
            opening = self._apply(messages[:place], reply=True)
            asked = len(opening) - (skeleton.index(probe) - len(before))
            start = asked if skeleton.startswith(opening) and 0 <= asked <= len(before) else len(before)
            pieces += [before, said]
            spans.append((length + start, length + len(before) + len(said)))
            length += len(before) + len(said)
        return Rendered(text="".join([*pieces, skeleton[done:]]), spans=tuple(spans))

    def _message(self, role: str, text: str) -> dict[str, Any]:
        """Media that open a text are the template's to place; others stay where the text has them."""
        content: list[dict[str, str]] = []
        while role == "user" and (mark := _OPENING_MARKS.match(text)):
            kind = mark[1].strip("<>")
            if kind not in self._known:
                break
            content.append({"type": kind})
            text = text[mark.end() :]
        for kind, token in self._tokens.items():
            text = text.replace(MARKS[kind], token)
        return {"role": role, "content": [*content, {"type": "text", "text": text}] if self._lists else text}

    def _apply(self, messages: list[dict[str, Any]], *, reply: bool = False) -> str:
        if not messages:
            return ""
        variables = {
            "messages": messages,
            "tools": None,
            "documents": None,
            "add_generation_prompt": reply,
            **self._tokenizer.special_tokens_map,
        }
        try:
            return rendered(self._text, variables)
        except TemplateRefusedError as error:
            roles = ", ".join(message["role"] for message in messages)
            raise TemplateRefusedError(f"the chat template refuses messages of {roles}: {error}") from None

    def _takes_lists(self) -> bool:
        """Whether messages are lists of parts, as multimodal templates have them, or plain text."""
        problem = "the tokenizer's chat template leaves out what the user says"
        for content, lists in (([{"type": "text", "text": _PROBE}], True), (_PROBE, False)):
            try:
                shown = self._apply([{"role": "user", "content": content}])
            except TemplateRefusedError as error:
                problem = str(error)
                continue
            if _PROBE in shown and "'type'" not in shown and '"type"' not in shown:
                return lists
        raise ValueError(problem)

    def _places(self, kind: str) -> bool:
        shown = self._apply([{"role": "user", "content": [{"type": kind}, {"type": "text", "text": _PROBE}]}])
        return shown.count(self._tokens[kind]) == 1

    def _turn_end(self) -> tuple[str, str]:
        """What the template puts after an assistant's turn to end it, or what has to be put there."""
        shown = self._apply([self._message("user", "a"), self._message("assistant", _PROBE)])
        if _PROBE not in shown:
            raise ValueError("the tokenizer's chat template leaves out what the assistant says")
        tail = shown[shown.index(_PROBE) + len(_PROBE) :]
        special = {str(token) for token in self._tokenizer.added_tokens_decoder.values() if token.special}
        special |= set(self._tokenizer.all_special_tokens)
        ends = [(tail.index(token), token) for token in special if token in tail]
        if ends:
            place, token = min(ends)
            return tail[: place + len(token)], ""
        return "", self._tokenizer.eos_token or ""


def _media_first(kinds: Sequence[str], tokens: Mapping[str, str], *, flat: bool) -> str:
    """Jinja that puts placeholder tokens for these kinds into the messages before the template sees them."""
    named = "{" + ", ".join(f"{kind!r}: {tokens[kind]!r}" for kind in kinds) + "}"
    kept = "ns.text" if flat else "ns.parts"
    return (
        "{%- set tokens = " + named + " -%}"
        "{%- set out = namespace(messages=[]) -%}"
        "{%- for message in messages -%}"
        "{%- if message.content is string -%}"
        "{%- set out.messages = out.messages + [message] -%}"
        "{%- else -%}"
        "{%- set ns = namespace(text='', parts=[]) -%}"
        "{%- for part in message.content -%}"
        "{%- if part.type in tokens -%}"
        "{%- set ns.text = ns.text + tokens[part.type] + '\\n' -%}"
        "{%- set ns.parts = ns.parts + [{'type': 'text', 'text': tokens[part.type]}] -%}"
        "{%- else -%}"
        "{%- set ns.text = ns.text + (part.text or '') -%}"
        "{%- set ns.parts = ns.parts + [part] -%}"
        "{%- endif -%}"
        "{%- endfor -%}"
        "{%- set out.messages = out.messages + [dict(message, content=" + kept + ")] -%}"
        "{%- endif -%}"
        "{%- endfor -%}"
        "{%- set messages = out.messages -%}"
    )
