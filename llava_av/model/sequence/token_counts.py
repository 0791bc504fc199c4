"""Number of tokens of each medium, known from its size alone."""

import torch

from llava_av.model.audio.front_end import front_end_of
from llava_av.model.configuration import LlavaAvConfig, VideoNewline
from llava_av.model.connector.audio_downsamplers import AudioDownsampler
from llava_av.model.connector.from_config import audio_downsampler_of, fast_pool_of, resampler_of
from llava_av.model.connector.resamplers import Resampler
from llava_av.model.vision.anyres import AnyRes
from llava_av.model.vision.tower import leading_tokens


def slow_frames(frames: int, every: int | None) -> list[bool]:
    """Return which frames of a video are slow, with finer tokens (arXiv 2410.02713, section 3.2).

    Args:
        frames: Number of frames.
        every: Interval of slow frames, starting with the first; None: all frames are slow.
    """
    return [every is None or index % every == 0 for index in range(frames)]


def newline_tokens(newline: VideoNewline, rows: int | None) -> int:
    """Return the number of newline tokens of one frame; that of `one` belongs to the video.

    Args:
        newline: Position of the newlines: nowhere, at a video's end, after each frame, or after each row.
        rows: Rows of the frame's tokens; needed by `grid`.
    """
    return {"none": 0, "one": 0, "frame": 1, "grid": rows or 0}[newline]


class TokenCounts:
    """Number of tokens of each medium, computed by the connectors of the model, built without weights.

    Raises:
        ValueError: Settings of the config contradict each other; names them.
    """

    def __init__(self, config: LlavaAvConfig) -> None:
        self._config = config
        self._resampler: Resampler | None = None
        self._downsampler: AudioDownsampler | None = None
        self.front_end = front_end_of(config) if config.has_audio else None
        with torch.device("meta"):
            if config.has_vision:
                self._resampler = resampler_of(config)
            if config.has_audio:
                self._downsampler = audio_downsampler_of(config)
        self._fast_pool = fast_pool_of(config)
        self._anyres = AnyRes.from_config(config)

    def frame_tokens(self) -> int:
        """Return the tokens of one slow frame without newlines."""
        side = self._config.patches_per_side
        return self._require_resampler().tokens(side, side)

    def video_frame_tokens(self, frames: int) -> list[int]:
        """Return the tokens of each frame of a video, including the newlines that belong to a frame."""
        newline, side = self._config.video_newline, self._config.patches_per_side
        counts = {}
        for slow in set(self.slow_frames(frames)):
            rows = self.frame_rows(slow) if newline == "grid" else None
            counts[slow] = self._frame_resampler(slow).tokens(side, side) + newline_tokens(newline, rows)
        return [counts[slow] for slow in self.slow_frames(frames)]

    def frame_rows(self, slow: bool) -> int:
        """Return the rows of the tokens of a slow or fast frame.

        Raises:
            ValueError: The resampler's tokens have no rows; names the resampler.
        """
        side = self._config.patches_per_side
        grid = self._frame_resampler(slow).grid(side, side)
        if grid is None:
            raise ValueError(
                f"video_newline='grid' needs rows of tokens, which resampler={self._config.resampler!r} does "
                "not have: use video_newline='frame'"
            )
        return grid[0]

    def slow_frames(self, frames: int) -> list[bool]:
        """Return which frames of a video go through the resampler; the fast pool takes the others."""
        return slow_frames(
            frames, None if self._config.slow_fast is None else self._config.slow_fast["every"]
        )

    def image_tokens(self, size: tuple[int, int], *, alone: bool = True) -> int:
        """Return the tokens of an image.

        Args:
            size: Height and width in pixels before any processing.
            alone: True if it is the only image of its row.
        """
        patches = self._config.patches_per_side**2
        if self._anyres is not None:
            if alone or self._config.tile_several_images:
                return self._anyres.tokens(size)
            return patches + 1
        if self._config.resample_images:
            return self.frame_tokens()
        keeps_leading = self._config.vision_feature_select_strategy == "full"
        return patches + (leading_tokens(self._config.vision_config) if keeps_leading else 0)

    def image_tiles(self, size: tuple[int, int], *, alone: bool = True) -> int:
        """Return the tiles of an image; arguments as for `image_tokens`."""
        if self._anyres is None or not (alone or self._config.tile_several_images):
            return 1
        return self._anyres.tiles(size)

    def audio_tokens(self, samples: int) -> int:
        """Return the number of tokens of audio samples; 0 if they are too few for one feature."""
        if self._downsampler is None or self.front_end is None:
            raise ValueError("the model has no audio part")
        return self._downsampler.tokens(self.front_end.feature_count(samples))

    def audio_times_s(self, samples: int) -> list[float]:
        """Return the time of each audio token in seconds from the start of the audio.

        With `audio_token_times="stride"` it is the centre of the token's receptive field, by the strides and
        receptive fields of tower and down-sampler. With `"even"` the tokens divide the duration.
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

    def _frame_resampler(self, slow: bool) -> Resampler:
        return self._require_resampler() if slow or self._fast_pool is None else self._fast_pool

    def _require_resampler(self) -> Resampler:
        if self._resampler is None:
            raise ValueError("the model has no vision part")
        return self._resampler
