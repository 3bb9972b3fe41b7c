"""Runs an upscaler over an image in tiles."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from xpsr_sdk.contracts import Upscaler
from xpsr_sdk.data.images import resize
from xpsr_sdk.engine.tiling import Tile

SMALLEST_UPSCALER_TILE = 32
"""The smallest side of a tile in pixels when memory runs out."""


def upscale_in_tiles(upscaler: Upscaler, images: Tensor, side: int) -> Tensor:
    """Enlarge images with an upscaler, tile by tile.

    Args:
        upscaler: The upscaler, with scale s.
        images: B 3 h w in [0, 1], on the device and in the dtype to compute with.
        side: The side of a tile, in pixels of the images. Each tile is computed with the upscaler's halo around it.

    Returns:
        B 3 s*h s*w in [0, 1], on the device and in the dtype of ``images``.
    """
    height, width = images.shape[-2:]
    scale, halo = upscaler.scale, upscaler.halo
    if max(height, width) <= side:
        return upscaler.upscale(images)
    whole = images.new_empty(*images.shape[:2], height * scale, width * scale)
    for tile in _tiles(height, width, side):
        top, left = max(tile.top - halo, 0), max(tile.left - halo, 0)
        around = Tile(top, left, min(tile.bottom + halo, height), min(tile.right + halo, width))
        inner = Tile(tile.top - top, tile.left - left, tile.bottom - top, tile.right - left)
        tile.of(whole, scale).copy_(inner.of(upscaler.upscale(around.of(images)), scale))
    return whole


@torch.no_grad()
def upscale_to(upscaler: Upscaler, images: Tensor, height: int, width: int, side: int = 384) -> Tensor:
    """Enlarge whole images to any size, B 3 ``height`` ``width`` in [0, 1]. Training uses this.

    Args:
        upscaler: The upscaler.
        images: B 3 h w in [0, 1].
        height: The height of the result, in pixels.
        width: The width of the result, in pixels.
        side: The side of a tile, in pixels of the images.
    """
    return resize(upscale_in_tiles(upscaler, images, side), height, width).clamp(0, 1)


def _tiles(height: int, width: int, side: int) -> Iterator[Tile]:
    """Tiles without overlap, row by row."""
    for top in range(0, height, side):
        for left in range(0, width, side):
            yield Tile(top, left, min(top + side, height), min(left + side, width))
