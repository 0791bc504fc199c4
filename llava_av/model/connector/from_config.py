"""Connectors of a model, built from its config."""

from torch import nn

from llava_av.model.configuration import LlavaAvConfig
from llava_av.model.connector.audio_downsamplers import AUDIO_DOWNSAMPLERS, AudioDownsampler
from llava_av.model.connector.projectors import PROJECTORS
from llava_av.model.connector.resamplers import RESAMPLERS, Resampler, SpatialPool
from llava_av.model.vision.tower import patch_width


def resampler_of(config: LlavaAvConfig) -> Resampler:
    """Build the resampler of a model."""
    width = config.text_config.hidden_size if config.resample_projected else patch_width(config)
    heads = (config.text_config if config.resample_projected else config.vision_config).num_attention_heads
    return RESAMPLERS.build(config.resampler, config.resampler_options, width=width, heads=heads)


def fast_pool_of(config: LlavaAvConfig) -> SpatialPool | None:
    """Build the pool for the frames between the slow ones; None if all frames are slow."""
    return None if config.slow_fast is None else SpatialPool(config.slow_fast["stride"])


def audio_downsampler_of(config: LlavaAvConfig) -> AudioDownsampler:
    """Build the audio down-sampler of a model."""
    audio = config.audio_config
    return AUDIO_DOWNSAMPLERS.build(
        config.audio_downsampler,
        config.audio_downsampler_options,
        width=audio.hidden_size,
        heads=audio.num_attention_heads,
    )


def vision_projector_of(config: LlavaAvConfig) -> nn.Module:
    """Build the projector for images and frames."""
    return PROJECTORS.build(
        config.vision_projector,
        config.vision_projector_options,
        width_in=patch_width(config),
        width_out=config.text_config.hidden_size,
    )


def audio_projector_of(config: LlavaAvConfig, width_in: int) -> nn.Module:
    """Build the projector for audio; `width_in` is the down-sampler's `width_out`."""
    return PROJECTORS.build(
        config.audio_projector,
        config.audio_projector_options,
        width_in=width_in,
        width_out=config.text_config.hidden_size,
    )
