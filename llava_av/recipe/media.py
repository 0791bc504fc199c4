"""Section `media`: decoding of clips."""

from typing import ClassVar, Literal

from pydantic import Field

from llava_av.recipe.section import LONGEST_S, SHORTEST_S, Section

__all__ = ["MediaRecipe"]


class MediaRecipe(Section):
    """Decoding of clips into arrays; a recipe with a base model has that model's settings as defaults."""

    section: ClassVar[str] = "media"

    frames_per_s: float = Field(default=4.0, ge=1e-3, le=1_000)
    """Frames sampled from each second of video."""
    max_frames: int = Field(default=32, ge=1, le=1_000_000)
    """Maximum number of frames per clip; a longer clip is sampled evenly over its whole length."""
    frame_size: int = Field(default=32, ge=8, le=16_384)
    """Side of the square that each frame is resized to, in pixels."""
    sample_rate_hz: int = Field(default=16_000, ge=8_000, le=768_000)
    """Sample rate that audio is resampled to, in Hz."""
    max_audio_s: float = Field(default=10.0, ge=SHORTEST_S, le=LONGEST_S)
    """Audio kept from the start of each clip, in seconds."""
    decoder: Literal["pyav", "decord"] = "pyav"
    """Library that decodes video frames; PyAV always decodes audio."""
