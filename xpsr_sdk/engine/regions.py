"""Large pictures, region by region: only the regions in flight are in memory, the rest lies on disk.

A region is restored as a picture of its own, a part of it over its neighbours', and fades into them in pixel space.
Neighbours see the same input and, through ``noise_at``, the same noise where they overlap.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from torch import Tensor

NOISE_BLOCK = 64
"""Side, in latents, of the blocks that noise is drawn in."""


@dataclass(frozen=True)
class Region:
    """A rectangle of the result, in pixels, and over how many of them it fades into what lies above and to the left."""

    left: int
    top: int
    right: int
    bottom: int
    fade_left: int = 0
    fade_top: int = 0

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.right - self.left, self.bottom - self.top


def plan_regions(width: int, height: int, side: int, overlap: int, stride: int) -> list[Region]:
    """Cut a result into regions of about ``side`` x ``side`` at most, row by row; one that is no larger stays whole.

    Args:
        width: Of the result, in pixels.
        height: Of the result, in pixels.
        side: Of a region, in pixels.
        overlap: At least so many pixels of neighbouring regions are the same; less than ``side``.
        stride: Regions begin at multiples of this: pixels a latent.
    """
    if width * height <= side * side:
        return [Region(0, 0, width, height)]
    columns, rows = _spans(width, side, overlap, stride), _spans(height, side, overlap, stride)
    return [
        Region(left, top, right, bottom, fade_left, fade_top)
        for (top, bottom, fade_top), (left, right, fade_left) in product(rows, columns)
    ]


def _spans(size: int, side: int, overlap: int, stride: int) -> list[tuple[int, int, int]]:
    """Start, end and overlap with the one before of as few spans as cover ``size``; no longer than that takes."""
    overlap += stride - 1  # of which rounding the starts may cost as much
    count = max(math.ceil((size - overlap) / (side - overlap)), 1)
    side = math.ceil((size - overlap) / count) + overlap
    starts = [i * (size - side) // max(count - 1, 1) // stride * stride for i in range(count)]
    ends = [start + side for start in starts[:-1]] + [size]
    fades = [0, *(end - start for end, start in zip(ends, starts[1:], strict=False))]
    return list(zip(starts, ends, fades, strict=True))


def noise_at(seed: int, channels: int, top: int, left: int, height: int, width: int) -> Tensor:
    """Standard normal noise, 1 C h w, that depends on the place in the whole picture, in latents, not on the region."""
    noise = torch.empty(1, channels, height, width)
    rows = range(top // NOISE_BLOCK, -(-(top + height) // NOISE_BLOCK))
    columns = range(left // NOISE_BLOCK, -(-(left + width) // NOISE_BLOCK))
    for row, column in product(rows, columns):
        drawn = np.random.default_rng([seed, row, column]).standard_normal(
            (channels, NOISE_BLOCK, NOISE_BLOCK), dtype=np.float32
        )
        y, x = row * NOISE_BLOCK, column * NOISE_BLOCK  # of the block, in the picture
        y0, x0 = max(y, top), max(x, left)
        y1, x1 = min(y + NOISE_BLOCK, top + height), min(x + NOISE_BLOCK, left + width)
        noise[0, :, y0 - top : y1 - top, x0 - left : x1 - left] = torch.from_numpy(
            drawn[:, y0 - y : y1 - y, x0 - x : x1 - x]
        )
    return noise
