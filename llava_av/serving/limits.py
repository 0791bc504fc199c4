"""Limits of the server; every one protects it from a single request or from too many."""

from pydantic import Field

from llava_av.frozen import FrozenModel

__all__ = ["ServingLimits"]


class ServingLimits(FrozenModel):
    """Limits of requests, of their media and of the batch."""

    body_bytes: int = Field(default=48 * 2**20, ge=1_024)
    """Maximum bytes of a request's body."""
    body_s: float = Field(default=60.0, gt=0)
    """Seconds within which a request's body must arrive."""
    request_s: float = Field(default=300.0, gt=0)
    """Seconds within which a request must be answered, from its body's arrival to the last token."""
    queued: int = Field(default=32, ge=0)
    """Requests that wait in addition to those in the batch; further ones get 429."""
    batch: int = Field(default=8, ge=1)
    """Maximum requests in the batch."""
    context: int = Field(default=8_192, ge=16)
    """Maximum tokens of a prompt and its reply; the model's own limit applies too."""
    reply_tokens: int = Field(default=256, ge=1)
    """Maximum tokens of a reply whose request does not say `max_tokens`."""
    messages: int = Field(default=64, ge=1)
    """Maximum messages of a request."""
    characters: int = Field(default=200_000, ge=1)
    """Maximum characters of all messages."""
    media: int = Field(default=8, ge=0)
    """Maximum images, videos and audio files of a request."""
    media_bytes: int = Field(default=32 * 2**20, ge=1)
    """Maximum bytes of one file."""
    media_s: float = Field(default=600.0, gt=0)
    """Maximum seconds of one video or audio file, by its headers."""
    media_pixels: int = Field(default=36_000_000, ge=1)
    """Maximum pixels of an image or of a video's frame, by its headers."""
    media_frames: int = Field(default=36_000, ge=1)
    """Maximum frames of one video, counted without decoding them."""
    fetch_s: float = Field(default=30.0, gt=0)
    """Seconds within which the media that a request names by URL must be fetched."""
    decode_s: float = Field(default=30.0, gt=0)
    """Seconds within which the media of a request must decode."""
    decode_bytes: int = Field(default=4 * 2**30, ge=2**28)
    """Maximum memory of a process that decodes; only Linux enforces it."""
    decode_workers: int = Field(default=2, ge=1)
    """Processes that decode."""
