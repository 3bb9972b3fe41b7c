"""An upscaler run over an image in tiles."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from xpsr_sdk.contracts import Upscaler
from xpsr_sdk.data.images import resize
from xpsr_sdk.engine.tiling import Tile

SMALLEST_TILE = 32
"""Pixels that a tile keeps when memory is short."""


def upscale_in_tiles(upscaler: Upscaler, images: Tensor, side: int) -> Tensor:
    """Images as an upscaler enlarges them, B 3 s*h s*w in [0, 1].

    Args:
        upscaler: What enlarges.
        images: B 3 h w in [0, 1], on the device and in the dtype that it is to compute in.
        side: Of a tile, in pixels of the images; each tile is computed with the upscaler's halo around it.

    Returns:
        On the device and in the dtype of ``images``.
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
    """Whole images at a size of choice, B 3 ``height`` ``width`` in [0, 1]: training's way of doing it.

    Args:
        upscaler: What enlarges.
        images: B 3 h w in [0, 1].
        height: Of the result, in pixels.
        width: Likewise.
        side: Of a tile, in pixels of the images.
    """
    return resize(upscale_in_tiles(upscaler, images, side), height, width).clamp(0, 1)


def _tiles(height: int, width: int, side: int) -> Iterator[Tile]:
    """Tiles side by side, without overlap."""
    for top in range(0, height, side):
        for left in range(0, width, side):
            yield Tile(top, left, min(top + side, height), min(left + side, width))
