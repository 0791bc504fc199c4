"""Turns and media files of a chat request.

Media go into files with neutral names, and a tag marks the place of each in the text. Text that would itself
be read as a tag or as a special token is refused, so that nobody can write the turns of others.
"""

import base64
import binascii
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx2

from llava_av.datasets.loading import LocatedSample
from llava_av.model.sequence.chat_template import MEDIA_TAGS
from llava_av.serving.chat_request import (
    AudioUrlPart,
    ChatRequest,
    ContentPart,
    ImageUrlPart,
    InputAudioPart,
    Message,
    TextPart,
    VideoUrlPart,
)
from llava_av.serving.limits import ServingLimits
from llava_av.serving.media_fetcher import LinkedFile
from llava_av.serving.media_hosts import HostRefusedError, MediaHosts
from llava_av.serving.media_limits import media_sample
from llava_av.serving.request_errors import invalid

__all__ = ["AskedConversation", "read_conversation"]

_SPEAKERS = {"system": "system", "developer": "system", "user": "human", "assistant": "gpt"}
_DATA_URL = re.compile(r"data:[^,;]*(?:;[^,;]*)*;base64,", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class AskedConversation:
    """Turns of a request, and the media that they name."""

    turns: tuple[tuple[str, str], ...]
    """Speaker (`system`, `human` or `gpt`) and text with a tag for each medium."""
    media: LocatedSample | None
    """Files of the media in the order of their tags; None without media."""
    linked: tuple[LinkedFile, ...] = ()
    """Those of the files that are to be fetched."""


@dataclass
class _Files:
    """Files that are written while the messages are read, or fetched later."""

    folder: Path
    limits: ServingLimits
    hosts: MediaHosts
    names: dict[str, list[str]] = field(default_factory=lambda: {name: [] for name in MEDIA_TAGS})
    paths: dict[str, Path] = field(default_factory=dict)
    linked: list[LinkedFile] = field(default_factory=list)

    def add(self, modality: str, name: str, source: str, *, is_url: bool) -> str:
        """Write a medium, or note its URL; return its tag."""
        if len(self.paths) == self.limits.media:
            raise invalid(
                f"{name}: a request may have {self.limits.media} media files: send fewer",
                code="too_many_media",
                param="messages",
            )
        path = self.folder / str(len(self.paths))
        content = _of_data_url(source) if is_url else source
        if content is None:
            self.linked.append(LinkedFile(where=name, url=self._accepted(source, name), path=path))
        else:
            path.write_bytes(_decoded(content, name, self.limits.media_bytes))
        self.names[modality].append(name)
        self.paths[name] = path
        return MEDIA_TAGS[modality]

    def _accepted(self, url: str, name: str) -> httpx2.URL:
        try:
            return self.hosts.accepted(url)
        except HostRefusedError:
            fetched = ", or a URL of a host that this server fetches from" if self.hosts else ""
            raise invalid(
                f"{name}: the URL {url[:64]!r} must be data:TYPE;base64,CONTENT{fetched}: send the file",
                code="unsupported_url",
                param="messages",
            ) from None


def read_conversation(
    request: ChatRequest,
    folder: Path,
    limits: ServingLimits,
    hosts: MediaHosts,
    special_tokens: Iterable[str],
    request_id: str,
) -> AskedConversation:
    """Read the messages of a request, and write the media that it contains to files.

    Args:
        request: The request.
        folder: Folder for the files.
        limits: Limits of the server.
        hosts: Hosts of further media.
        special_tokens: Tokens that must not occur in text.
        request_id: Name of the request in messages.

    Raises:
        RequestError: A message cannot be used; names it.
    """
    if len(request.messages) > limits.messages:
        raise invalid(
            f"messages: {len(request.messages)} messages, must be ≤ {limits.messages}: send fewer",
            code="too_many_messages",
            param="messages",
        )
    characters = sum(len(part.text) for message in request.messages for part in message.texts)
    if characters > limits.characters:
        raise invalid(
            f"messages: {characters:,} characters, must be ≤ {limits.characters:,}: send less",
            code="context_length_exceeded",
            param="messages",
        )
    if request.messages[-1].role != "user":
        raise invalid("messages: the last message must be from user", param="messages")
    files, reserved = _Files(folder, limits, hosts), (*MEDIA_TAGS.values(), *special_tokens)
    turns = [
        (_SPEAKERS[message.role], _text(message, f"messages[{place}]", files, reserved))
        for place, message in enumerate(request.messages)
    ]
    media = media_sample(request_id, files.names, files.paths, use_audio=request.use_audio_in_video)
    return AskedConversation(
        turns=tuple(turns), media=media if files.paths else None, linked=tuple(files.linked)
    )


def _text(message: Message, name: str, files: _Files, reserved: Sequence[str]) -> str:
    """Return the text of a message, with a tag for each medium."""
    pieces = []
    for place, part in enumerate(message.content):
        where = f"{name}.content[{place}]"
        if isinstance(part, TextPart):
            pieces.append(_plain(part.text, where, reserved))
        elif message.role != "user":
            raise invalid(f"{where}: only messages of user may have media", param="messages")
        else:
            modality, source = _medium(part)
            is_url = not isinstance(part, InputAudioPart)
            pieces.append(files.add(modality, where, source, is_url=is_url))
    return "\n".join(pieces)


def _plain(text: str, where: str, reserved: Sequence[str]) -> str:
    found = next((token for token in reserved if token and token in text), None)
    if found is not None:
        raise invalid(
            f"{where}: the text contains {found!r}, which the model reads as a medium or as the end of a "
            "turn: remove it, and send media as parts of their own",
            code="reserved_text",
            param="messages",
        )
    return text


def _medium(part: ContentPart) -> tuple[str, str]:
    """Return the modality of a part, and its URL or its content in Base64."""
    match part:
        case ImageUrlPart():
            return "image", part.image_url.url
        case VideoUrlPart():
            return "video", part.video_url.url
        case AudioUrlPart():
            return "audio", part.audio_url.url
        case InputAudioPart():
            return "audio", part.input_audio.data
    raise AssertionError("text has no medium")


def _of_data_url(url: str) -> str | None:
    """Return the content of a `data:` URL in Base64; None if it is another URL."""
    match = _DATA_URL.match(url[:256])
    return None if match is None else url[match.end() :]


def _decoded(content: str, where: str, most: int) -> bytes:
    """Return the bytes of a file, whose size is checked first."""
    if len(content) * 3 // 4 > most + 2:
        raise invalid(
            f"{where}: the file has {len(content) * 3 // 4:,} bytes, must be ≤ {most:,}: send a smaller one",
            code="media_too_large",
            param="messages",
        )
    try:
        return base64.b64decode(content, validate=True)
    except (binascii.Error, ValueError):
        raise invalid(
            f"{where}: the content is not Base64: encode the file", code="invalid_base64", param="messages"
        ) from None
