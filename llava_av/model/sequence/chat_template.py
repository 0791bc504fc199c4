"""Conversations rendered by any tokenizer's chat template, with the spans of the assistant's turns."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict

from transformers import PreTrainedTokenizerBase

from llava_av.model.sequence.template_rendering import TemplateRefusedError, render_chat_template

__all__ = ["MEDIA_TAGS", "ChatTemplate", "RenderedChat"]

MEDIA_TAGS: Mapping[str, str] = {"image": "<image>", "video": "<video>", "audio": "<audio>"}
"""Placeholders for media in a user's text, by modality."""

_PROBE = "llavaavprobe"
_LEADING_TAG = re.compile(r"\s*(<image>|<video>|<audio>)\s*")


@dataclass(frozen=True, kw_only=True)
class RenderedChat:
    """Conversation rendered as text."""

    text: str
    """Text with one placeholder token for each medium."""
    spans: tuple[tuple[int, int], ...]
    """Start and end offset of each assistant's turn, including its end token."""


class _Message(TypedDict):
    """Message as a chat template takes it."""

    role: str
    content: str | list[dict[str, str]]
    """Text, or parts with a `type` each."""


class ChatTemplate:
    """Chat template of a tokenizer, completed for media and for the end of a turn where it lacks them.

    Args:
        tokenizer: Tokenizer with the template.
        tokens: Placeholder tokens by modality, for the modalities that the model takes.

    Raises:
        ValueError: The tokenizer has no template, or the template drops or rejects messages.
        ModelFilesError: The template exceeds the limits of `render_chat_template`.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, tokens: Mapping[str, str]) -> None:
        if not tokenizer.chat_template:
            raise ValueError(
                f"tokenizer {tokenizer.name_or_path or type(tokenizer).__name__} has no chat template: set "
                "tokenizer.chat_template"
            )
        self._tokenizer = tokenizer
        self._text = str(tokenizer.get_chat_template())
        self._tokens = dict(tokens)
        self._takes_parts = self._accepts_parts()
        self._placed = {modality for modality in tokens if self._takes_parts and self._places(modality)}
        self._end, self._added_end = self._turn_end()

    def with_media(self) -> str:
        """Return the template, prefixed so that it takes messages with all modalities of the model."""
        missing = [modality for modality in self._tokens if modality not in self._placed]
        if not missing:
            return self._text
        return _media_first(missing, self._tokens, flat=not self._takes_parts) + self._text

    def render(self, turns: Sequence[tuple[str, str]], *, reply: bool = False) -> RenderedChat:
        """Render a conversation.

        Args:
            turns: Role (`user`, `assistant`, `system`) and text, with `MEDIA_TAGS` in a user's text.
            reply: True to end with the opening of an assistant's turn.

        Raises:
            ValueError: The template changes or drops an assistant's turn, or rejects the conversation.
        """
        probes = {place: f"{_PROBE}{place}x" for place, (role, _) in enumerate(turns) if role == "assistant"}
        messages = [self._message(role, probes.get(place, text)) for place, (role, text) in enumerate(turns)]
        skeleton = self._apply(messages, reply=reply)
        pieces, spans, done, length = [], [], 0, 0
        for place, probe in probes.items():
            if skeleton.count(probe) != 1:
                raise ValueError(
                    f"the chat template renders turn {place + 1} {skeleton.count(probe)} times, must be once"
                )
            before = skeleton[done : skeleton.index(probe)]
            done = skeleton.index(probe) + len(probe)
            end = self._end if skeleton.startswith(self._end, done) else ""
            done += len(end)
            answer = turns[place][1] + (end or self._added_end)
            opening = self._apply(messages[:place], reply=True)
            opened = len(opening) - (skeleton.index(probe) - len(before))
            fits = skeleton.startswith(opening) and 0 <= opened <= len(before)
            start = opened if fits else len(before)
            pieces += [before, answer]
            spans.append((length + start, length + len(before) + len(answer)))
            length += len(before) + len(answer)
        return RenderedChat(text="".join([*pieces, skeleton[done:]]), spans=tuple(spans))

    def _message(self, role: str, text: str) -> _Message:
        """Build a message; the template places leading media, others stay where the text has them."""
        content: list[dict[str, str]] = []
        while role == "user" and (tag := _LEADING_TAG.match(text)):
            modality = tag[1].strip("<>")
            if modality not in self._placed:
                break
            content.append({"type": modality})
            text = text[tag.end() :]
        for modality, token in self._tokens.items():
            text = text.replace(MEDIA_TAGS[modality], token)
        return {
            "role": role,
            "content": [*content, {"type": "text", "text": text}] if self._takes_parts else text,
        }

    def _apply(self, messages: Sequence[_Message], *, reply: bool = False) -> str:
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
            return render_chat_template(self._text, variables)
        except TemplateRefusedError as error:
            roles = ", ".join(message["role"] for message in messages)
            raise TemplateRefusedError(f"the chat template rejects messages of {roles}: {error}") from None

    def _accepts_parts(self) -> bool:
        """Return whether messages are lists of parts, as in multimodal templates, or plain text."""
        problem = "the tokenizer's chat template drops the user's text"
        for content, accepts in (([{"type": "text", "text": _PROBE}], True), (_PROBE, False)):
            try:
                rendered = self._apply([{"role": "user", "content": content}])
            except TemplateRefusedError as error:
                problem = str(error)
                continue
            if _PROBE in rendered and "'type'" not in rendered and '"type"' not in rendered:
                return accepts
        raise ValueError(problem)

    def _places(self, modality: str) -> bool:
        rendered = self._apply(
            [{"role": "user", "content": [{"type": modality}, {"type": "text", "text": _PROBE}]}]
        )
        return rendered.count(self._tokens[modality]) == 1

    def _turn_end(self) -> tuple[str, str]:
        """Return the template's end of an assistant's turn, and the end to add if it has none."""
        rendered = self._apply([self._message("user", "a"), self._message("assistant", _PROBE)])
        if _PROBE not in rendered:
            raise ValueError("the tokenizer's chat template drops the assistant's text")
        tail = rendered[rendered.index(_PROBE) + len(_PROBE) :]
        special = {str(token) for token in self._tokenizer.added_tokens_decoder.values() if token.special}
        special |= set(self._tokenizer.all_special_tokens)
        ends = [(tail.index(token), token) for token in special if token in tail]
        if ends:
            place, token = min(ends)
            return tail[: place + len(token)], ""
        return "", self._tokenizer.eos_token or ""


def _media_first(modalities: Sequence[str], tokens: Mapping[str, str], *, flat: bool) -> str:
    """Return Jinja that inserts placeholder tokens of these modalities into the messages."""
    named = "{" + ", ".join(f"{modality!r}: {tokens[modality]!r}" for modality in modalities) + "}"
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
