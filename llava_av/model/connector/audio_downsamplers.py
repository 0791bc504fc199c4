"""From an audio tower's features to fewer tokens; how many there are is known from their number alone."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from llava_av.model.connector.query_transformer import QueryTransformer
from llava_av.model.factory import built

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

    def span(self, token: int, features: int) -> tuple[int, int]:
        """Return the first and the last feature that a token is made from.

        Args:
            token: index, less than `tokens(features)`.
            features: number of features of the audio; what pads the last window is not counted.
        """
        raise NotImplementedError

    def forward(self, features: Tensor, lengths: Sequence[int]) -> Tensor:
        """Down-samples sounds of several lengths in one call.

        Args:
            features: `[n, time, c]`, each row padded with whatever behind its own length.
            lengths: features of each row, at least 1.

        Returns:
            `[n, tokens(time), width_out]`, of which the first `tokens(length)` are the row's.
        """
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

    def span(self, token: int, features: int) -> tuple[int, int]:
        """See `AudioDownsampler`."""
        return _window(token, self.size, self.size, features)

    def forward(self, features: Tensor, lengths: Sequence[int]) -> Tensor:
        """See `AudioDownsampler`."""
        grouped = _groups(_without_padding(features, lengths), self.size)
        return grouped.flatten(2)


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

    def span(self, token: int, features: int) -> tuple[int, int]:
        """See `AudioDownsampler`."""
        return _window(token, self.size, self.size, features)

    def forward(self, features: Tensor, lengths: Sequence[int]) -> Tensor:
        """See `AudioDownsampler`."""
        summed = _groups(_without_padding(features, lengths), self.size).sum(2)
        there = _groups(_present(features, lengths).to(features).unsqueeze(-1), self.size).sum(2)
        return summed / there.clamp(min=1)


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

    def span(self, token: int, features: int) -> tuple[int, int]:
        """See `AudioDownsampler`."""
        (kernel,), (stride,) = self.convolution.kernel_size, self.convolution.stride
        return _window(token, stride, kernel, features)

    def forward(self, features: Tensor, lengths: Sequence[int]) -> Tensor:
        """See `AudioDownsampler`."""
        time = features.shape[1]
        (kernel,), (stride,) = self.convolution.kernel_size, self.convolution.stride
        missing = max(0, (self.tokens(time) - 1) * stride + kernel - time)
        there = _without_padding(features, lengths).transpose(1, 2)
        convolved: Tensor = self.convolution(nn.functional.pad(there, (0, missing)))
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
        return -(-features // self.window) * self.transformer.count

    def span(self, token: int, features: int) -> tuple[int, int]:
        """See `AudioDownsampler`; every query of a window reads the whole window."""
        return _window(token // self.transformer.count, self.window, self.window, features)

    def forward(self, features: Tensor, lengths: Sequence[int]) -> Tensor:
        """See `AudioDownsampler`; what pads the last window is not read."""
        windows = _groups(features, self.window)
        absent = ~_groups(_present(features, lengths).unsqueeze(-1), self.window).flatten(2)
        # attention to nothing is not a number; what comes of an empty window is nobody's token
        absent = absent & ~absent.all(dim=2, keepdim=True)
        tokens: Tensor = self.transformer(windows.flatten(0, 1), absent.flatten(0, 1))
        return tokens.reshape(len(features), -1, self.width_out)


def _window(index: int, stride: int, size: int, features: int) -> tuple[int, int]:
    """Return the first and the last feature of a window that are there."""
    return index * stride, min(index * stride + size, features) - 1


def _present(features: Tensor, lengths: Sequence[int]) -> Tensor:
    """Which features are no padding, `[n, time]`."""
    ends = torch.tensor(lengths, device=features.device)[:, None]
    return torch.arange(features.shape[1], device=features.device) < ends


def _without_padding(features: Tensor, lengths: Sequence[int]) -> Tensor:
    return features.masked_fill(~_present(features, lengths).unsqueeze(-1), 0.0)


def _groups(features: Tensor, size: int) -> Tensor:
    """`[n, time, c]` to `[n, ceil(time/size), size, c]`, the last group zero-padded."""
    padded = nn.functional.pad(features, (0, 0, 0, -features.shape[1] % size))
    grouped: Tensor = padded.unflatten(1, (-1, size))
    return grouped


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
