"""Cuts large pictures into regions, so that only the current region is in memory and the rest lies on disk.

Each region is restored like a separate picture. Regions overlap, and are blended in pixel space. Where they overlap,
they get the same input and, from ``noise_at``, the same noise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from torch import Tensor

NOISE_BLOCK = 64
"""Noise is drawn in square blocks with this side, in latents."""


@dataclass(frozen=True)
class Region:
    """A rectangle of the result, in pixels. The fades are its overlaps with the regions to the left and above."""

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
    """Cut a result into regions of at most about ``side`` x ``side``, row by row. A small result stays whole.

    Args:
        width: The width of the result, in pixels.
        height: The height of the result, in pixels.
        side: The side of a region, in pixels.
        overlap: The smallest overlap of neighbouring regions, in pixels; less than ``side``.
        stride: Pixels per latent. Regions begin at multiples of it.
    """
    if width * height <= side * side:
        return [Region(0, 0, width, height)]
    columns, rows = _spans(width, side, overlap, stride), _spans(height, side, overlap, stride)
    return [
        Region(left, top, right, bottom, fade_left, fade_top)
        for (top, bottom, fade_top), (left, right, fade_left) in product(rows, columns)
    ]


def _spans(size: int, side: int, overlap: int, stride: int) -> list[tuple[int, int, int]]:
    """Cover ``size`` with as few spans as possible. Returns the start, the end and the overlap with the span before."""
    overlap += stride - 1  # rounding the starts may reduce the overlap by so much
    count = max(math.ceil((size - overlap) / (side - overlap)), 1)
    side = math.ceil((size - overlap) / count) + overlap
    starts = [i * (size - side) // max(count - 1, 1) // stride * stride for i in range(count)]
    ends = [start + side for start in starts[:-1]] + [size]
    fades = [0, *(end - start for end, start in zip(ends, starts[1:], strict=False))]
    return list(zip(starts, ends, fades, strict=True))


def noise_at(seed: int, channels: int, top: int, left: int, height: int, width: int) -> Tensor:
    """Standard normal noise, 1 C h w, for a place in the whole picture, in latents. It is the same in every region."""
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
