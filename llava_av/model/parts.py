"""The trained parts between the towers and the language model: resamplers, audio stacking, projectors."""

import torch
from torch import Tensor, nn

from llava_av.model.config import LlavaAvConfig

__all__ = ["AudioStack", "PerceiverResampler", "Projector", "SpatialPool", "build_resampler"]


class SpatialPool(nn.Module):
    """Averages squares of neighbouring patches (the pooling of LLaVA-NeXT-Video)."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, patches: Tensor) -> Tensor:
        """`[frames, side*side, width]` to `[frames, (side/stride)**2, width]`."""
        frames, count, width = patches.shape
        side = round(count**0.5)
        grid = patches.view(frames, side, side, width).permute(0, 3, 1, 2)
        pooled = nn.functional.avg_pool2d(grid, self.stride)
        return pooled.flatten(2).transpose(1, 2)


class PerceiverResampler(nn.Module):
    """Learned queries attend to a frame's patches (Flamingo, arXiv 2204.14198, section 2.1; one layer)."""

    def __init__(self, width: int, queries: int, heads: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(queries, width) * width**-0.5)
        self.norm = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, patches: Tensor) -> Tensor:
        """`[frames, patches, width]` to `[frames, queries, width]`."""
        keys = self.norm(patches)
        queries = self.queries.expand(len(patches), -1, -1)
        mixed = queries + self.attention(queries, keys, keys, need_weights=False)[0]
        resampled: Tensor = mixed + self.feed_forward(mixed)
        return resampled


def build_resampler(config: LlavaAvConfig) -> nn.Module:
    """The resampler that the config names."""
    vision = config.vision_config
    if config.resampler == "spatial_pool":
        return SpatialPool(config.pool_stride)
    if config.resampler == "perceiver":
        return PerceiverResampler(vision.hidden_size, config.queries_per_frame, vision.num_attention_heads)
    return nn.Identity()


class AudioStack(nn.Module):
    """Joins neighbouring audio features into one, zero-padding the last group."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, features: Tensor) -> Tensor:
        """`[clips, time, width]` to `[clips, ceil(time/size), size*width]`."""
        clips, time, width = features.shape
        padded = nn.functional.pad(features, (0, 0, 0, -time % self.size))
        return padded.reshape(clips, -1, self.size * width)


class Projector(nn.Module):
    """Two-layer MLP into the language model's width (LLaVA-1.5, arXiv 2310.03744), after a norm."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width_in)
        self.linear_1 = nn.Linear(width_in, width_out)
        self.linear_2 = nn.Linear(width_out, width_out)

    def forward(self, features: Tensor) -> Tensor:
        """`[…, width_in]` to `[…, width_out]`."""
        hidden = nn.functional.gelu(self.linear_1(self.norm(features)))
        projected: Tensor = self.linear_2(hidden)
        return projected
