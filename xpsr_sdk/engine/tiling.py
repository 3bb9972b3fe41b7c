"""Overlapping latent tiles, blended with Gaussian weights."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Tile:
    """A rectangle of a feature map: rows ``top`` to ``bottom``, columns ``left`` to ``right``."""

    top: int
    left: int
    bottom: int
    right: int

    def of(self, x: Tensor, stride: int = 1) -> Tensor:
        """The tile's part of ``x`` (B C H W), which is ``stride`` times as large as the map that was cut into tiles."""
        return x[..., self.top * stride : self.bottom * stride, self.left * stride : self.right * stride]


def plan_tiles(height: int, width: int, tile: int | None, overlap: int) -> list[Tile]:
    """Cut a map of ``height`` x ``width`` latents into square tiles of side ``tile``.

    The stride is ``tile - overlap``; the last tile of a row or column is moved to the border. A map with no more
    latents than a tile stays whole. So does every map if ``tile`` is None. If one side of the map is shorter than a
    tile, so is that side of the tiles.
    """
    if tile is None or height * width <= tile * tile:
        return [Tile(0, 0, height, width)]
    rows, columns = min(tile, height), min(tile, width)

    def starts(size: int, side: int) -> list[int]:
        # In a very thin map, a tile may be no larger than the overlap. The stride must still be positive.
        stride = max(side - overlap, 1)
        count = 1 + math.ceil(max(size - side, 0) / stride)
        return [min(i * stride, size - side) for i in range(count)]

    return [
        Tile(top, left, top + rows, left + columns) for left in starts(width, columns) for top in starts(height, rows)
    ]


def gaussian_weights(height: int, width: int) -> Tensor:
    """Gaussian blending weights of a tile, ``height`` x ``width``, with a variance of 0.01 squared tile sides.

    They are centred at (n-1)/2 along x but at n/2 along y, as in the published code, so that results are the same.
    """

    def along(size: int, middle: float) -> Tensor:
        offsets = torch.arange(size, dtype=torch.float64) - middle
        return torch.exp(-(offsets**2) / size**2 / 0.02) / math.sqrt(0.02 * math.pi)

    return torch.outer(along(height, height / 2), along(width, (width - 1) / 2))
