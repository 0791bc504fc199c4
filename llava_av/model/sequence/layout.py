"""How many tokens each medium takes, known from its size alone."""

import torch
from torch import nn
from transformers import Wav2Vec2FeatureExtractor, WhisperFeatureExtractor

from llava_av.model.audio.front_end import LogMelFrontEnd, WaveformFrontEnd, build_front_end
from llava_av.model.configuration import LlavaAvConfig
from llava_av.model.connector.audio_downsamplers import AudioDownsampler, build_audio_downsampler
from llava_av.model.connector.projectors import build_projector
from llava_av.model.connector.resamplers import Resampler, SpatialPool, build_resampler
from llava_av.model.sequence.interleaving import newline_tokens, slow_frames
from llava_av.model.vision.anyres import AnyRes
from llava_av.model.vision.tower import leading_tokens, patch_width

__all__ = [
    "MediaLayout",
    "anyres_of",
    "audio_downsampler_of",
    "audio_projector_of",
    "fast_pool_of",
    "front_end_of",
    "resampler_of",
    "vision_projector_of",
]


def resampler_of(config: LlavaAvConfig) -> Resampler:
    """The resampler that the config names."""
    width = config.text_config.hidden_size if config.resample_projected else patch_width(config)
    heads = (config.text_config if config.resample_projected else config.vision_config).num_attention_heads
    return build_resampler(config.resampler, width=width, heads=heads, **config.resampler_options or {})


def audio_downsampler_of(config: LlavaAvConfig) -> AudioDownsampler:
    """The audio down-sampler that the config names."""
    audio = config.audio_config
    return build_audio_downsampler(
        config.audio_downsampler,
        width=audio.hidden_size,
        heads=audio.num_attention_heads,
        **config.audio_downsampler_options or {},
    )


def fast_pool_of(config: LlavaAvConfig) -> SpatialPool | None:
    """What pools the frames between the slow ones; None where all frames are slow."""
    return None if config.slow_fast is None else SpatialPool(config.slow_fast["stride"])


def vision_projector_of(config: LlavaAvConfig) -> nn.Module:
    """The projector of pictures that the config names."""
    return build_projector(
        config.vision_projector,
        width_in=patch_width(config),
        width_out=config.text_config.hidden_size,
        **config.vision_projector_options or {},
    )


def audio_projector_of(config: LlavaAvConfig, width_in: int) -> nn.Module:
    """The projector of sound that the config names."""
    return build_projector(
        config.audio_projector,
        width_in=width_in,
        width_out=config.text_config.hidden_size,
        **config.audio_projector_options or {},
    )


def front_end_of(config: LlavaAvConfig) -> WaveformFrontEnd | LogMelFrontEnd:
    """What stands before the audio tower."""
    settings = config.audio_extractor
    extractor = None
    if settings is not None:
        whisper = config.audio_config.model_type == "whisper"
        extractor = (WhisperFeatureExtractor if whisper else Wav2Vec2FeatureExtractor)(**settings)
    return build_front_end(
        config.audio_config,
        extractor,
        sample_rate_hz=config.sample_rate_hz,
        window_s=config.audio_window_s,
        overlap_s=config.audio_overlap_s,
    )


def anyres_of(config: LlavaAvConfig) -> AnyRes | None:
    """The arithmetic of tiles; None: every image is one tile."""
    if config.image_grid_pinpoints is None:
        return None
    return AnyRes(
        pinpoints=config.image_grid_pinpoints,
        tile_size=config.frame_size,
        side=config.side(),
        max_tiles=config.anyres_max_tiles,
    )


class MediaLayout:
    """Counts tokens by the very parts of the model, built without weights.

    Raises:
        ValueError: parts that do not fit each other, by name.
    """

    def __init__(self, config: LlavaAvConfig) -> None:
        self._config = config
        self._resampler: Resampler | None = None
        self._downsampler: AudioDownsampler | None = None
        self.front_end = None if config.audio_config is None else front_end_of(config)
        with torch.device("meta"):
            if config.vision_config is not None:
                self._resampler = resampler_of(config)
            if config.audio_config is not None:
                self._downsampler = audio_downsampler_of(config)
        self._fast = fast_pool_of(config)
        self._anyres = anyres_of(config) if config.vision_config is not None else None

    def frame_tokens(self) -> int:
        """Tokens of one frame, newlines apart."""
        side = self._config.side()
        return self._vision().tokens(side, side)

    def frame_runs(self, frames: int) -> list[int]:
        """Tokens of each frame of a video with the newlines that belong to it."""
        newline, side = self._config.video_newline, self._config.side()
        runs = {}
        for slow in set(self.slow(frames)):
            rows = self.frame_rows(slow) if newline == "grid" else None
            runs[slow] = self._stream(slow).tokens(side, side) + newline_tokens(newline, rows)
        return [runs[slow] for slow in self.slow(frames)]

    def frame_rows(self, slow: bool) -> int:
        """Rows of the tokens of a slow or fast frame.

        Raises:
            ValueError: the resampler's tokens have no rows, by name.
        """
        grid = self._stream(slow).grid(self._config.side(), self._config.side())
        if grid is None:
            raise ValueError(
                f"video_newline='grid' needs rows of tokens, which resampler={self._config.resampler!r} "
                "does not give"
            )
        return grid[0]

    def slow(self, frames: int) -> list[bool]:
        """Which frames of a video go through the resampler; the fast pool has the others."""
        return slow_frames(
            frames, None if self._config.slow_fast is None else self._config.slow_fast["every"]
        )

    def video_tokens(self, frames: int) -> int:
        """Tokens of a video of so many frames; none without frames."""
        end = 1 if frames and self._config.video_newline == "one" else 0
        return sum(self.frame_runs(frames)) + end

    def image_tokens(self, size: tuple[int, int], *, alone: bool = True) -> int:
        """Tokens of an image.

        Args:
            size: height and width in pixels, before any processing.
            alone: whether it is the only image of its row.
        """
        if self._anyres is not None:
            if alone or self._config.tile_several_images:
                return self._anyres.tokens(size)
            return self._config.side() ** 2 + 1
        if self._config.resample_images:
            return self.frame_tokens()
        kept = self._config.vision_feature_select_strategy == "full"
        return self._config.side() ** 2 + (leading_tokens(self._config.vision_config) if kept else 0)

    def image_tiles(self, size: tuple[int, int], *, alone: bool = True) -> int:
        """Tiles of an image, as `image_tokens`."""
        tiled = self._anyres is not None and (alone or self._config.tile_several_images)
        return self._anyres.tiles(size) if self._anyres is not None and tiled else 1

    def audio_tokens(self, samples: int) -> int:
        """Tokens of so many samples of sound; 0 where they are too few for one feature."""
        if self._downsampler is None or self.front_end is None:
            raise ValueError("the model has no audio part")
        return self._downsampler.tokens(self.front_end.feature_count(samples))

    def audio_times_s(self, samples: int) -> list[float]:
        """Return the time of each audio token, in seconds from the start of the audio.

        With `audio_token_times="stride"` it is the centre of the audio that the token is made from, by the
        strides and receptive fields of tower and down-sampler. With `"even"` the tokens divide the duration.
        """
        count = self.audio_tokens(samples)
        if self._config.audio_token_times == "even":
            step_s = samples / self._config.sample_rate_hz / max(count, 1)
            return [(index + 0.5) * step_s for index in range(count)]
        assert self._downsampler is not None, "audio_tokens refuses a model without audio"
        assert self.front_end is not None, "audio_tokens refuses a model without audio"
        features = self.front_end.feature_count(samples)
        spans = [self._downsampler.span(token, features) for token in range(count)]
        return [self.front_end.feature_time_s((first + last) / 2) for first, last in spans]

    def _stream(self, slow: bool) -> Resampler:
        return self._vision() if slow or self._fast is None else self._fast

    def _vision(self) -> Resampler:
        if self._resampler is None:
            raise ValueError("the model has no vision part")
        return self._resampler
