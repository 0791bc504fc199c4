"""Images of any shape as a grid of tiles beside the whole image (LLaVA-NeXT; LLaVA-OneVision bounds it)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers.image_processing_utils import select_best_resolution

__all__ = ["AnyRes"]

# Below this much too large a grid is kept as it is, as LLaVA-OneVision was trained.
_TOLERATED_SCALE = 1.1


@dataclass(frozen=True, kw_only=True)
class AnyRes:
    """The arithmetic of tiles: the first is the whole image, the others its grid, row by row.

    Sizes are heights and widths in pixels of the image as it was before any processing.
    """

    pinpoints: Sequence[Sequence[int]]
    """Heights and widths in pixels that a grid may have."""
    tile_size: int
    """Side of a tile in pixels."""
    side: int
    """Patches along a side of a tile."""
    max_tiles: int | None
    """Tiles' worth of patches beyond which the grid is scaled down; None: never."""

    def grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of tiles."""
        height, width = select_best_resolution(size, [list(one) for one in self.pinpoints])
        return int(height) // self.tile_size, int(width) // self.tile_size

    def tiles(self, size: tuple[int, int]) -> int:
        """Tiles of an image, the whole image among them."""
        rows, columns = self.grid(size)
        return rows * columns + 1

    def tokens(self, size: tuple[int, int]) -> int:
        """Tokens of an image: those of the whole, and its grid's with a newline after each row."""
        height, width = self._scaled(*self._crop(size)[2:])
        return self.side**2 + height * (width + 1)

    def pack(self, tiles: Tensor, size: tuple[int, int], newline: Tensor) -> Tensor:
        """Puts an image's tiles together.

        Args:
            tiles: `[tiles(size), side*side, c]`.
            size: of the image.
            newline: `[c]`, put after each row of the grid.

        Returns:
            `[tokens(size), c]`: first the whole image, then the grid without what only pads it.
        """
        rows, columns = self.grid(size)
        grid = tiles[1:].view(rows, columns, self.side, self.side, -1)
        picture = grid.permute(4, 0, 2, 1, 3).reshape(-1, rows * self.side, columns * self.side)
        top, left, height, width = self._crop(size)
        picture = picture[:, top : top + height, left : left + width]
        scaled = self._scaled(height, width)
        if scaled != (height, width):
            picture = nn.functional.interpolate(picture[None], size=scaled, mode="bilinear")[0]
        ends = newline.to(picture)[:, None, None].expand(-1, scaled[0], 1)
        return torch.cat([tiles[0], torch.cat([picture, ends], 2).flatten(1).transpose(0, 1)])

    def _crop(self, size: tuple[int, int]) -> tuple[int, int, int, int]:
        """Top, left, height and width in patches of the image within its grid."""
        rows, columns = self.grid(size)
        height, width = rows * self.side, columns * self.side
        if size[1] / size[0] > width / height:
            top = (height - int(round(size[0] * (width / size[1]), 7))) // 2
            return top, 0, height - 2 * top, width
        left = (width - int(round(size[1] * (height / size[0]), 7))) // 2
        return 0, left, height, width - 2 * left

    def _scaled(self, height: int, width: int) -> tuple[int, int]:
        """Patches along each side after a grid that is too large was scaled down."""
        if self.max_tiles is None:
            return height, width
        scale = math.sqrt(height * width / (self.max_tiles * self.side**2))
        if scale <= _TOLERATED_SCALE:
            return height, width
        return int(height // scale), int(width // scale)
