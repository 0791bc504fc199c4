"""Images of any shape as a grid of tiles plus the whole image (LLaVA-NeXT, LLaVA-OneVision)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers.image_processing_utils import select_best_resolution

from llava_av.model.configuration import LlavaAvConfig

__all__ = ["AnyRes"]

# LLaVA-OneVision was trained with grids up to this factor too large left unscaled.
_TOLERATED_SCALE = 1.1


@dataclass(frozen=True, kw_only=True)
class AnyRes:
    """Tile arithmetic: the first tile is the whole image, the others are its grid, row by row.

    Sizes are the height and width in pixels of the image before any processing.
    """

    pinpoints: Sequence[Sequence[int]]
    """Allowed heights and widths of a grid in pixels."""
    tile_size: int
    """Side of a tile in pixels."""
    side: int
    """Patches along a side of a tile."""
    max_tiles: int | None
    """Number of tiles above which the grid is scaled down; None: never."""

    @classmethod
    def from_config(cls, config: LlavaAvConfig) -> "AnyRes | None":
        """Return the tile arithmetic of a model; None if every image is one tile."""
        if not config.has_vision or config.image_grid_pinpoints is None:
            return None
        return cls(
            pinpoints=config.image_grid_pinpoints,
            tile_size=config.frame_size,
            side=config.patches_per_side,
            max_tiles=config.anyres_max_tiles,
        )

    def grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the rows and columns of tiles."""
        height, width = select_best_resolution(size, [list(pinpoint) for pinpoint in self.pinpoints])
        return int(height) // self.tile_size, int(width) // self.tile_size

    def tiles(self, size: tuple[int, int]) -> int:
        """Return the number of tiles, including the whole image."""
        rows, columns = self.grid(size)
        return rows * columns + 1

    def tokens(self, size: tuple[int, int]) -> int:
        """Return the tokens of the whole image and of its grid, with a newline after each row of the grid."""
        height, width = self._scaled(*self._crop(size)[2:])
        return self.side**2 + height * (width + 1)

    def pack(self, tiles: Tensor, size: tuple[int, int], newline: Tensor) -> Tensor:
        """Join the features of an image's tiles.

        Args:
            tiles: `[tiles(size), side*side, c]`.
            size: Height and width of the image.
            newline: `[c]`, put after each row of the grid.

        Returns:
            `[tokens(size), c]`: first the whole image, then the grid without its padding.
        """
        rows, columns = self.grid(size)
        grid = tiles[1:].view(rows, columns, self.side, self.side, -1)
        features = grid.permute(4, 0, 2, 1, 3).reshape(-1, rows * self.side, columns * self.side)
        top, left, height, width = self._crop(size)
        features = features[:, top : top + height, left : left + width]
        scaled = self._scaled(height, width)
        if scaled != (height, width):
            features = nn.functional.interpolate(features[None], size=scaled, mode="bilinear")[0]
        ends = newline.to(features)[:, None, None].expand(-1, scaled[0], 1)
        return torch.cat([tiles[0], torch.cat([features, ends], 2).flatten(1).transpose(0, 1)])

    def _crop(self, size: tuple[int, int]) -> tuple[int, int, int, int]:
        """Return top, left, height and width in patches of the image within its grid."""
        rows, columns = self.grid(size)
        height, width = rows * self.side, columns * self.side
        if size[1] / size[0] > width / height:
            top = (height - int(round(size[0] * (width / size[1]), 7))) // 2
            return top, 0, height - 2 * top, width
        left = (width - int(round(size[1] * (height / size[0]), 7))) // 2
        return 0, left, height, width - 2 * left

    def _scaled(self, height: int, width: int) -> tuple[int, int]:
        """Return the patches along each side after a grid that is too large is scaled down."""
        if self.max_tiles is None:
            return height, width
        scale = math.sqrt(height * width / (self.max_tiles * self.side**2))
        if scale <= _TOLERATED_SCALE:
            return height, width
        return int(height // scale), int(width // scale)
