"""Body of a chat completion, as OpenAI's clients send it, with the media parts of transformers and vLLM.

Any other field is refused: if it were ignored, the answer would not be the one that was asked for.
"""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from llava_av.frozen import FrozenModel

__all__ = [
    "AudioUrlPart",
    "ChatRequest",
    "ContentPart",
    "ImageUrlPart",
    "InputAudioPart",
    "Message",
    "TextPart",
    "VideoUrlPart",
]

_MAX_NAME = 1_000


class _Object(FrozenModel):
    """Object of a request; a field that is null counts as not given, as in OpenAI's API."""

    @model_validator(mode="before")
    @classmethod
    def _given(cls, value: Any) -> Any:
        if isinstance(value, dict):
            return {name: one for name, one in value.items() if one is not None}
        return value


class _Address(_Object):
    url: str
    """`data:` URL with the file in Base64."""


class _ImageAddress(_Address):
    detail: Literal["auto"] = "auto"
    """Resolution; the model alone decides it."""


class _InputAudio(_Object):
    data: str
    """File in Base64."""
    format: str
    """Format in words; the content decides."""


class TextPart(_Object):
    """Text."""

    type: Literal["text"]
    text: str


class ImageUrlPart(_Object):
    """Image."""

    type: Literal["image_url"]
    image_url: _ImageAddress


class VideoUrlPart(_Object):
    """Video with its audio."""

    type: Literal["video_url"]
    video_url: _Address


class AudioUrlPart(_Object):
    """Audio file."""

    type: Literal["audio_url"]
    audio_url: _Address


class InputAudioPart(_Object):
    """Audio file, in OpenAI's form."""

    type: Literal["input_audio"]
    input_audio: _InputAudio


ContentPart = Annotated[
    TextPart | ImageUrlPart | VideoUrlPart | AudioUrlPart | InputAudioPart, Field(discriminator="type")
]


def _as_parts(value: Any) -> Any:
    return [{"type": "text", "text": value}] if isinstance(value, str) else value


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class Message(_Object):
    """One message of the conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[tuple[ContentPart, ...], BeforeValidator(_as_parts)]
    """Text, or parts in their order; media in messages of `user` only."""

    @property
    def texts(self) -> tuple[TextPart, ...]:
        """Return the parts that are text."""
        return tuple(part for part in self.content if isinstance(part, TextPart))


class _StreamOptions(_Object):
    include_usage: bool = False


class ChatRequest(_Object):
    """A chat completion."""

    model: Annotated[str, Field(max_length=_MAX_NAME)]
    messages: tuple[Message, ...] = Field(min_length=1)
    max_tokens: int | None = Field(default=None, ge=1)
    """Maximum tokens of the reply."""
    max_completion_tokens: int | None = Field(default=None, ge=1)
    """Newer name of `max_tokens`."""
    temperature: float = Field(default=0.0, ge=0, le=2)
    """0, the default, chooses the most likely token, as in evaluations."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    stop: Annotated[
        tuple[Annotated[str, Field(min_length=1)], ...], BeforeValidator(_as_list), Field(max_length=16)
    ] = ()
    """Texts that end the reply; one text or a list."""
    stream: bool = False
    stream_options: _StreamOptions | None = None
    n: Literal[1] = 1
    use_audio_in_video: bool = True
    """False to ignore the audio of videos."""

    @property
    def reply_tokens(self) -> int | None:
        """Return the maximum tokens of the reply; None if the request leaves it open."""
        return self.max_completion_tokens if self.max_tokens is None else self.max_tokens
