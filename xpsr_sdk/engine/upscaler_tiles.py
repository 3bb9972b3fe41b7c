"""Runs an upscaler over an image in tiles."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from xpsr_sdk.contracts import Upscaler
from xpsr_sdk.data.images import resize
from xpsr_sdk.engine.tiling import Tile
from xpsr_sdk.engine.watching import tell
from xpsr_sdk.plugin_system.answers import blamed_on, checked_tensor

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

    Raises:
        BrokenPlugin: The upscaler failed, or gave something else than its contract promises.
        NonFiniteResult: It gave NaN or infinity.
    """
    height, width = images.shape[-2:]
    scale, halo = upscaler.scale, upscaler.halo
    tiles = list(_tiles(height, width, side))
    tell("upscale", 0, len(tiles))
    if len(tiles) == 1:
        return _enlarged(upscaler, images)
    whole = images.new_empty(*images.shape[:2], height * scale, width * scale)
    for done, tile in enumerate(tiles, start=1):
        top, left = max(tile.top - halo, 0), max(tile.left - halo, 0)
        around = Tile(top, left, min(tile.bottom + halo, height), min(tile.right + halo, width))
        inner = Tile(tile.top - top, tile.left - left, tile.bottom - top, tile.right - left)
        tile.of(whole, scale).copy_(inner.of(_enlarged(upscaler, around.of(images)), scale))
        tell("upscale", done, len(tiles))
    return whole


def _enlarged(upscaler: Upscaler, images: Tensor) -> Tensor:
    """What the upscaler makes of images, B 3 h w: B 3 s*h s*w."""
    batch, channels, height, width = images.shape
    with blamed_on("upscaler", upscaler):
        result = upscaler.upscale(images)
    shape = (batch, channels, height * upscaler.scale, width * upscaler.scale)
    return checked_tensor(
        "upscaler", upscaler, result, "images", shape, dtype=images.dtype, device=images.device, within=(0, 1)
    )


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
