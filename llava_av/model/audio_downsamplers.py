"""From an audio tower's features to fewer tokens; how many there are is known from their number alone."""

from typing import Any

import torch
from torch import Tensor, nn

from llava_av.model.options import built
from llava_av.model.query_transformer import QueryTransformer

__all__ = [
    "AUDIO_DOWNSAMPLERS",
    "AudioDownsampler",
    "Average",
    "Convolution",
    "QFormer",
    "Stack",
    "build_audio_downsampler",
]


class AudioDownsampler(nn.Module):
    """Features of one sound in, tokens out; every feature is in some token."""

    width_out: int
    """Features of a token."""

    def tokens(self, features: int) -> int:
        """Tokens of so many features; 0 of none."""
        raise NotImplementedError

    def forward(self, features: Tensor) -> Tensor:
        """`[n, time, c]` to `[n, tokens(time), width_out]`; `time` is at least 1."""
        raise NotImplementedError


class Stack(AudioDownsampler):
    """Joins `size` neighbouring features into one, zero-padding the last group."""

    def __init__(self, width: int, size: int) -> None:
        super().__init__()
        _require_positive("stack", size=size)
        self.size = size
        self.width_out = width * size

    def tokens(self, features: int) -> int:
        """See `AudioDownsampler`; the last stack may be part empty."""
        return -(-features // self.size)

    def forward(self, features: Tensor) -> Tensor:
        """See `AudioDownsampler`."""
        clips, time, width = features.shape
        padded = nn.functional.pad(features, (0, 0, 0, -time % self.size))
        return padded.reshape(clips, -1, self.size * width)


class Average(AudioDownsampler):
    """The mean of `size` neighbouring features; of those that are there in the last group."""

    def __init__(self, width: int, size: int) -> None:
        super().__init__()
        _require_positive("average", size=size)
        self.size = size
        self.width_out = width

    def tokens(self, features: int) -> int:
        """See `AudioDownsampler`."""
        return -(-features // self.size)

    def forward(self, features: Tensor) -> Tensor:
        """See `AudioDownsampler`."""
        return nn.functional.avg_pool1d(features.transpose(1, 2), self.size, ceil_mode=True).transpose(1, 2)


class Convolution(AudioDownsampler):
    """A convolution over time; the last window is zero-padded."""

    def __init__(self, width: int, kernel: int, stride: int) -> None:
        super().__init__()
        _require_positive("convolution", kernel=kernel, stride=stride)
        if kernel < stride:
            raise ValueError(
                f"kernel={kernel} of the convolution is less than stride={stride}: it would skip"
            )
        self.convolution = nn.Conv1d(width, width, kernel, stride)
        self.width_out = width

    def tokens(self, features: int) -> int:
        """See `AudioDownsampler`."""
        return -(-features // self.convolution.stride[0])

    def forward(self, features: Tensor) -> Tensor:
        """See `AudioDownsampler`."""
        time = features.shape[1]
        (kernel,), (stride,) = self.convolution.kernel_size, self.convolution.stride
        missing = max(0, (self.tokens(time) - 1) * stride + kernel - time)
        convolved: Tensor = self.convolution(nn.functional.pad(features.transpose(1, 2), (0, missing)))
        # a kernel longer than its stride would fit behind the last token, too
        return convolved[..., : self.tokens(time)].transpose(1, 2)


class QFormer(AudioDownsampler):
    """A Q-Former reads windows of features, each by itself (SALMONN, arXiv 2310.13289, section 3.1)."""

    def __init__(self, width: int, heads: int, window: int, queries: int = 1, layers: int = 2) -> None:
        super().__init__()
        _require_positive("qformer", window=window)
        self.window = window
        self.transformer = QueryTransformer(width, queries, heads, layers)
        self.width_out = width

    def tokens(self, features: int) -> int:
        """See `AudioDownsampler`; the last window may be part empty."""
        return -(-features // self.window) * len(self.transformer.queries)

    def forward(self, features: Tensor) -> Tensor:
        """See `AudioDownsampler`; what pads the last window is not read."""
        clips, time, width = features.shape
        missing = -time % self.window
        windows = nn.functional.pad(features, (0, 0, 0, missing)).reshape(-1, self.window, width)
        absent = torch.arange(time + missing, device=features.device) >= time
        absent = absent.reshape(-1, self.window).repeat(clips, 1)
        tokens: Tensor = self.transformer(windows, absent if missing else None)
        return tokens.reshape(clips, self.tokens(time), width)


AUDIO_DOWNSAMPLERS: dict[str, type[AudioDownsampler]] = {
    "stack": Stack,
    "convolution": Convolution,
    "average": Average,
    "qformer": QFormer,
}
"""Classes by the names that recipes and configs use."""


def build_audio_downsampler(kind: str, *, width: int, heads: int, **options: Any) -> AudioDownsampler:
    """The down-sampler of that name.

    Args:
        kind: a key of `AUDIO_DOWNSAMPLERS`.
        width: features that the audio tower gives at each time.
        heads: attention heads, of those that attend.
        options: the other arguments of its class.

    Raises:
        ValueError: an unknown name or option, or a value that is not allowed, by name.
    """
    given = {"width": width, "heads": heads}
    return built(AUDIO_DOWNSAMPLERS, "audio down-sampler", kind, given, options)


def _require_positive(kind: str, **values: int) -> None:
    for name, value in values.items():
        if value < 1:
            raise ValueError(f"{name}={value} of the audio down-sampler {kind}: at least 1 is needed")
