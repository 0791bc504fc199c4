"""Connectors of a model, built from its config."""

from torch import nn

from llava_av.model.configuration import LlavaAvConfig
from llava_av.model.connector.audio_downsamplers import AudioDownsampler, build_audio_downsampler
from llava_av.model.connector.projectors import build_projector
from llava_av.model.connector.resamplers import Resampler, SpatialPool, build_resampler
from llava_av.model.vision.tower import patch_width

__all__ = [
    "audio_downsampler_of",
    "audio_projector_of",
    "fast_pool_of",
    "resampler_of",
    "vision_projector_of",
]


def resampler_of(config: LlavaAvConfig) -> Resampler:
    """Build the resampler of a model."""
    width = config.text_config.hidden_size if config.resample_projected else patch_width(config)
    heads = (config.text_config if config.resample_projected else config.vision_config).num_attention_heads
    return build_resampler(config.resampler, width=width, heads=heads, **config.resampler_options or {})


def fast_pool_of(config: LlavaAvConfig) -> SpatialPool | None:
    """Build the pool for the frames between the slow ones; None if all frames are slow."""
    return None if config.slow_fast is None else SpatialPool(config.slow_fast["stride"])


def audio_downsampler_of(config: LlavaAvConfig) -> AudioDownsampler:
    """Build the audio down-sampler of a model."""
    audio = config.audio_config
    return build_audio_downsampler(
        config.audio_downsampler,
        width=audio.hidden_size,
        heads=audio.num_attention_heads,
        **config.audio_downsampler_options or {},
    )


def vision_projector_of(config: LlavaAvConfig) -> nn.Module:
    """Build the projector for images and frames."""
    return build_projector(
        config.vision_projector,
        width_in=patch_width(config),
        width_out=config.text_config.hidden_size,
        **config.vision_projector_options or {},
    )


def audio_projector_of(config: LlavaAvConfig, width_in: int) -> nn.Module:
    """Build the projector for audio; `width_in` is the down-sampler's `width_out`."""
    return build_projector(
        config.audio_projector,
        width_in=width_in,
        width_out=config.text_config.hidden_size,
        **config.audio_projector_options or {},
    )
