"""Audio down-samplers: fewer tokens from an audio tower's features, in a number known beforehand."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from llava_av.model.connector.factory import ConnectorKinds
from llava_av.model.connector.query_transformer import QueryTransformer
from llava_av.model.device_waits import on_device

__all__ = [
    "AUDIO_DOWNSAMPLERS",
    "AudioDownsampler",
    "Average",
    "Convolution",
    "QFormer",
    "Stack",
]


class AudioDownsampler(nn.Module):
    """Features of one audio array in, tokens out; every feature is part of a token."""

    width_out: int
    """Features of a token."""

    def tokens(self, features: int) -> int:
        """Return the number of tokens for a number of features; 0 for none."""
        raise NotImplementedError

    def span(self, token: int, features: int) -> tuple[int, int]:
        """Return the first and the last feature that a token is computed from.

        Args:
            token: Index, less than `tokens(features)`.
            features: Number of features of the audio; padding of the last window is not counted.
        """
        raise NotImplementedError

    def forward(self, features: Tensor, lengths: Sequence[int]) -> Tensor:
        """Down-sample rows of several lengths in one call.

        Args:
            features: `[n, time, c]`; values behind a row's own length are ignored.
            lengths: Number of features of each row, at least 1.

        Returns:
            `[n, tokens(time), width_out]`; the first `tokens(length)` belong to the row.
        """
        raise NotImplementedError


class Stack(AudioDownsampler):
    """Concatenates `size` neighbouring features into one token, zero-padding the last group."""

    def __init__(self, width: int, size: int) -> None:
        super().__init__()
        _require_positive("stack", size=size)
        self.size = size
        self.width_out = width * size

    def tokens(self, features: int) -> int:
        """Count groups; the last may be partly empty."""
        return -(-features // self.size)

    def span(self, token: int, features: int) -> tuple[int, int]:
        """Return the range of the group."""
        return _window(token, self.size, self.size, features)

    def forward(self, features: Tensor, lengths: Sequence[int]) -> Tensor:
        """Concatenate each group."""
        grouped = _groups(_without_padding(features, lengths), self.size)
        return grouped.flatten(2)


class Average(AudioDownsampler):
    """Means of `size` neighbouring features; the last group averages the features that it has."""

    def __init__(self, width: int, size: int) -> None:
        super().__init__()
        _require_positive("average", size=size)
        self.size = size
        self.width_out = width

    def tokens(self, features: int) -> int:
        """Count groups."""
        return -(-features // self.size)

    def span(self, token: int, features: int) -> tuple[int, int]:
        """Return the range of the group."""
        return _window(token, self.size, self.size, features)

    def forward(self, features: Tensor, lengths: Sequence[int]) -> Tensor:
        """Average each group."""
        summed = _groups(_without_padding(features, lengths), self.size).sum(2)
        there = _groups(_present(features, lengths).to(features).unsqueeze(-1), self.size).sum(2)
        return summed / there.clamp(min=1)


class Convolution(AudioDownsampler):
    """Convolution over time; the last window is zero-padded."""

    def __init__(self, width: int, kernel: int, stride: int) -> None:
        super().__init__()
        _require_positive("convolution", kernel=kernel, stride=stride)
        if kernel < stride:
            raise ValueError(
                f"kernel={kernel} of the audio down-sampler convolution must be ≥ stride={stride}, else it "
                "skips features"
            )
        self.convolution = nn.Conv1d(width, width, kernel, stride)
        self.width_out = width

    def tokens(self, features: int) -> int:
        """Count groups."""
        return -(-features // self.convolution.stride[0])

    def span(self, token: int, features: int) -> tuple[int, int]:
        """Return the range of the kernel."""
        (kernel,), (stride,) = self.convolution.kernel_size, self.convolution.stride
        return _window(token, stride, kernel, features)

    def forward(self, features: Tensor, lengths: Sequence[int]) -> Tensor:
        """Convolve over time."""
        time = features.shape[1]
        (kernel,), (stride,) = self.convolution.kernel_size, self.convolution.stride
        missing = max(0, (self.tokens(time) - 1) * stride + kernel - time)
        there = _without_padding(features, lengths).transpose(1, 2)
        convolved: Tensor = self.convolution(nn.functional.pad(there, (0, missing)))
        # a kernel longer than its stride also fits behind the last token
        return convolved[..., : self.tokens(time)].transpose(1, 2)


class QFormer(AudioDownsampler):
    """Q-Former that reads each window of features separately (SALMONN, arXiv 2310.13289, section 3.1)."""

    def __init__(self, width: int, heads: int, window: int, queries: int = 1, layers: int = 2) -> None:
        super().__init__()
        _require_positive("qformer", window=window)
        self.window = window
        self.transformer = QueryTransformer(width, queries, heads, layers)
        self.width_out = width

    def tokens(self, features: int) -> int:
        """Count the queries of all windows; the last window may be partly empty."""
        return -(-features // self.window) * self.transformer.count

    def span(self, token: int, features: int) -> tuple[int, int]:
        """Return the whole window, which each of its queries reads."""
        return _window(token // self.transformer.count, self.window, self.window, features)

    def forward(self, features: Tensor, lengths: Sequence[int]) -> Tensor:
        """Read each window; padding of the last one is not read."""
        windows = _groups(features, self.window)
        absent = ~_groups(_present(features, lengths).unsqueeze(-1), self.window).flatten(2)
        # attention to nothing is NaN; the output of an empty window is in no token
        absent = absent & ~absent.all(dim=2, keepdim=True)
        tokens: Tensor = self.transformer(windows.flatten(0, 1), absent.flatten(0, 1))
        return tokens.reshape(len(features), -1, self.width_out)


def _window(index: int, stride: int, size: int, features: int) -> tuple[int, int]:
    """Return the first and the last feature of a window that exist."""
    return index * stride, min(index * stride + size, features) - 1


def _present(features: Tensor, lengths: Sequence[int]) -> Tensor:
    """Return a mask of the features that are no padding, `[n, time]`."""
    ends = on_device(torch.tensor(lengths), features.device)[:, None]
    return torch.arange(features.shape[1], device=features.device) < ends


def _without_padding(features: Tensor, lengths: Sequence[int]) -> Tensor:
    return features.masked_fill(~_present(features, lengths).unsqueeze(-1), 0.0)


def _groups(features: Tensor, size: int) -> Tensor:
    """Group `[n, time, c]` to `[n, ceil(time/size), size, c]`, zero-padding the last group."""
    padded = nn.functional.pad(features, (0, 0, 0, -features.shape[1] % size))
    grouped: Tensor = padded.unflatten(1, (-1, size))
    return grouped


AUDIO_DOWNSAMPLERS: ConnectorKinds[AudioDownsampler] = ConnectorKinds(
    "audio down-sampler",
    {
        "stack": Stack,
        "convolution": Convolution,
        "average": Average,
        "qformer": QFormer,
    },
)
"""Classes by their names; the model gives `width` and `heads`."""


def _require_positive(kind: str, **values: int) -> None:
    for name, value in values.items():
        if value < 1:
            raise ValueError(f"{name}={value} of the audio down-sampler {kind} must be ≥ 1")
