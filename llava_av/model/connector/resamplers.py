"""Resamplers: tokens of a frame from its patches; the count follows from the patch grid."""

from typing import Literal

import torch
from torch import Tensor, nn

from llava_av.model.connector.factory import ConnectorKinds
from llava_av.model.connector.query_transformer import QueryTransformer

__all__ = [
    "RESAMPLERS",
    "Identity",
    "MaskedDrop",
    "PerceiverResampler",
    "PoolMode",
    "QFormerResampler",
    "Resampler",
    "Rounding",
    "SpatialPool",
]

PoolMode = Literal["average", "max", "bilinear"]
Rounding = Literal["floor", "ceil"]


class Resampler(nn.Module):
    """Patches of one frame in, tokens out."""

    def grid(self, height: int, width: int) -> tuple[int, int] | None:
        """Return the rows and columns of tokens of a `height` by `width` patch grid; None without rows."""
        return None

    def tokens(self, height: int, width: int) -> int:
        """Return the number of tokens of one frame of `height` by `width` patches.

        Raises:
            ValueError: The grid is too small for a token; names its size.
        """
        raise NotImplementedError

    def forward(self, patches: Tensor, height: int, width: int) -> Tensor:
        """Resample frames.

        Args:
            patches: `[n, height*width, c]`, row by row.
            height: Rows of the patch grid.
            width: Columns of the patch grid.

        Returns:
            `[n, tokens(height, width), c]`.

        Raises:
            ValueError: The number of patches differs from the grid; names both.
        """
        raise NotImplementedError


class _OnGrid(Resampler):
    """Resampler whose tokens form a grid."""

    def grid(self, height: int, width: int) -> tuple[int, int]:
        raise NotImplementedError

    def tokens(self, height: int, width: int) -> int:
        rows, columns = self.grid(height, width)
        return rows * columns


class SpatialPool(_OnGrid):
    """Pools squares of neighbouring patches.

    LLaVA-NeXT-Video averages and drops incomplete squares at the end (`floor`); LLaVA-OneVision interpolates
    to the size divided by the stride, rounded up (`bilinear`, `ceil`). With `ceil`, average and max pool the
    patches that the incomplete squares have.
    """

    def __init__(self, stride: int, mode: PoolMode = "average", rounding: Rounding = "floor") -> None:
        super().__init__()
        if stride < 1:
            raise ValueError(f"stride={stride} of a spatial pool must be ≥ 1")
        if mode not in ("average", "max", "bilinear"):
            raise ValueError(f"mode={mode!r} of a spatial pool must be average, max or bilinear")
        if rounding not in ("floor", "ceil"):
            raise ValueError(f"rounding={rounding!r} of a spatial pool must be floor or ceil")
        self.stride = stride
        self.mode = mode
        self.rounding = rounding

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Divide the patch grid by the stride."""
        up = self.stride - 1 if self.rounding == "ceil" else 0
        rows, columns = (height + up) // self.stride, (width + up) // self.stride
        if not rows * columns:
            raise ValueError(
                f"a spatial pool of stride {self.stride} leaves no token of {height}x{width} patches"
            )
        return rows, columns

    def forward(self, patches: Tensor, height: int, width: int) -> Tensor:
        """Pool each square."""
        _require_grid(patches, height, width)
        size = self.grid(height, width)
        grid = patches.unflatten(1, (height, width)).permute(0, 3, 1, 2)
        if self.mode == "bilinear":
            pooled = nn.functional.interpolate(grid.contiguous(), size=size, mode="bilinear")
        else:
            pool = nn.functional.avg_pool2d if self.mode == "average" else nn.functional.max_pool2d
            pooled = pool(grid, self.stride, ceil_mode=self.rounding == "ceil")
        return pooled.flatten(2).transpose(1, 2)


class PerceiverResampler(Resampler):
    """Learned queries that attend to a frame's patches and themselves (Flamingo, arXiv 2204.14198, A.1.1)."""

    def __init__(self, width: int, queries: int, heads: int, layers: int = 1) -> None:
        super().__init__()
        if queries < 1 or layers < 1:
            raise ValueError(f"queries={queries} and layers={layers} of a perceiver must be ≥ 1")
        self.count = queries
        self.queries = nn.Parameter(torch.randn(queries, width) * width**-0.5)
        self.layers = nn.ModuleList(_PerceiverLayer(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def tokens(self, height: int, width: int) -> int:
        """Count the queries."""
        return self.count

    def forward(self, patches: Tensor, height: int, width: int) -> Tensor:
        """Read each frame with the queries."""
        _require_grid(patches, height, width)
        hidden: Tensor = self.queries.expand(len(patches), -1, -1)
        for layer in self.layers:
            hidden = layer(hidden, patches)
        normed: Tensor = self.norm(hidden)
        return normed


class _PerceiverLayer(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.query_norm = nn.LayerNorm(width)
        self.patch_norm = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, queries: Tensor, patches: Tensor) -> Tensor:
        normed = self.query_norm(queries)
        read = torch.cat((self.patch_norm(patches), normed), dim=1)
        mixed = queries + self.attention(normed, read, read, need_weights=False)[0]
        resampled: Tensor = mixed + self.feed_forward(mixed)
        return resampled


class QFormerResampler(Resampler):
    """Q-Former that reads a frame's patches (BLIP-2, arXiv 2301.12597, section 3.1)."""

    def __init__(self, width: int, queries: int, heads: int, layers: int = 2) -> None:
        super().__init__()
        self.transformer = QueryTransformer(width, queries, heads, layers)

    def tokens(self, height: int, width: int) -> int:
        """Count the queries."""
        return self.transformer.count

    def forward(self, patches: Tensor, height: int, width: int) -> Tensor:
        """Read each frame with the queries."""
        _require_grid(patches, height, width)
        read: Tensor = self.transformer(patches)
        return read


class MaskedDrop(Resampler):
    """Keeps a share of each frame's patches, in their order (after masking in MAE, arXiv 2111.06377).

    The number of kept patches depends on the grid only, in training as in evaluation, so token counts are
    known beforehand. Training draws the patches of each frame from the global generator, which recipes seed
    and checkpoints restore; evaluation keeps evenly spaced ones.
    """

    def __init__(self, drop_share: float) -> None:
        super().__init__()
        if not 0 < drop_share < 1:
            raise ValueError(f"drop_share={drop_share} of a masked drop must be > 0 and < 1")
        self.drop_share = drop_share

    def tokens(self, height: int, width: int) -> int:
        """Count the kept patches, at least one."""
        return max(1, round((1 - self.drop_share) * height * width))

    def forward(self, patches: Tensor, height: int, width: int) -> Tensor:
        """Keep the chosen patches."""
        _require_grid(patches, height, width)
        frames, count, features = patches.shape
        kept = self.tokens(height, width)
        if self.training:
            drawn = torch.rand(frames, count, device=patches.device)
            chosen = drawn.topk(kept, dim=1).indices.sort(dim=1).values
        else:
            chosen = (torch.arange(kept, device=patches.device) * count // kept).expand(frames, -1)
        return patches.gather(1, chosen.unsqueeze(-1).expand(-1, -1, features))


class Identity(_OnGrid):
    """Resampler that keeps every patch as a token."""

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Return the patch grid."""
        return height, width

    def forward(self, patches: Tensor, height: int, width: int) -> Tensor:
        """Return the patches."""
        _require_grid(patches, height, width)
        return patches


RESAMPLERS: ConnectorKinds[Resampler] = ConnectorKinds(
    "resampler",
    {
        "spatial_pool": SpatialPool,
        "perceiver": PerceiverResampler,
        "qformer": QFormerResampler,
        "masked_drop": MaskedDrop,
        "identity": Identity,
    },
)
"""Classes by their names; the model gives `width` and `heads`."""


def _require_grid(patches: Tensor, height: int, width: int) -> None:
    if patches.shape[1] != height * width:
        raise ValueError(f"a frame has {patches.shape[1]} patches but a grid of {height}x{width}")
