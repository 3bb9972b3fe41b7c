"""Large pictures, region by region: only the regions in flight are in memory, the rest lies on disk.

A region is restored as a picture of its own, a part of it over its neighbours', and fades into them in pixel space.
Neighbours see the same input and, through ``noise_at``, the same noise where they overlap.
"""

from __future__ import annotations

import math
import os
import shutil
import tempfile
import weakref
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np
import pyvips
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate, max_pool2d

from xpsr_sdk.data.picture import Picture, picture_of
from xpsr_sdk.errors import ImageError

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


def enlarge(picture: Picture, region: Region, width: int, height: int) -> tuple[Tensor, Tensor | None]:
    """A region of a picture that is enlarged to ``width`` x ``height``: colour, 1 3 H W, and alpha, 1 1 H W, in [0, 1].

    Bicubic (a = -0.5); the same pixels whatever the region. Colour under full transparency is continued from what is
    visible beside it, so that nothing invisible bleeds into edges.
    """
    across, down = picture.size[0] / width, picture.size[1] / height
    box = (region.left * across, region.top * down, region.right * across, region.bottom * down)
    left, top = (max(math.floor(side) - 3, 0) for side in box[:2])
    right, bottom = (min(math.ceil(s) + 3, most) for s, most in zip(box[2:], picture.size, strict=True))
    levels = picture.window(left, top, right - left, bottom - top).astype(np.float32) / picture.most
    if picture.has_alpha:
        levels[..., :-1] = continue_color(levels[..., :-1], levels[..., -1])
    inside = (box[0] - left, box[1] - top, min(box[2], right) - left, min(box[3], bottom) - top)
    channels = [
        np.asarray(Image.fromarray(levels[..., i]).resize(region.size, Image.Resampling.BICUBIC, inside))
        for i in range(levels.shape[-1])
    ]
    enlarged = torch.from_numpy(np.stack(channels)[None]).clamp(0, 1)
    color, alpha = (enlarged[:, :-1], enlarged[:, -1:]) if picture.has_alpha else (enlarged, None)
    return color.expand(-1, 3, -1, -1).contiguous(), alpha


def continue_color(color: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Colour, H W C, with its invisible pixels (alpha, H W, is 0) filled from the nearest visible ones.

    Averages of ever larger squares, weighted by alpha ("push-pull", Gortler et al., The Lumigraph, 1996).
    """
    weight = torch.from_numpy(alpha)[None, None]
    filled = _push_pull(torch.from_numpy(color).permute(2, 0, 1)[None] * weight, weight)
    known = alpha[..., None] > 0
    return np.where(known, color, filled[0].permute(1, 2, 0).numpy())


def _push_pull(weighted: Tensor, weight: Tensor) -> Tensor:
    """Weighted colours over weights, 1 C H W; where there is no weight, from the next coarser level."""
    own = weighted / weight.clamp(min=1e-6)
    if min(weight.shape[-2:]) < 2 or bool((weight > 0).all()):
        return own
    coarser = _push_pull(avg_pool2d(weighted, 2, ceil_mode=True), avg_pool2d(weight, 2, ceil_mode=True))
    return torch.where(weight > 0, own, interpolate(coarser, weight.shape[-2:], mode="bilinear"))


def is_flat(alpha: Tensor, radius: int = 8) -> Tensor:
    """Where alpha, 1 1 H W, has the same value in all directions, up to ``radius`` pixels away; B 1 H W, bool."""
    highest = max_pool2d(alpha, 2 * radius + 1, stride=1, padding=radius)
    lowest = -max_pool2d(-alpha, 2 * radius + 1, stride=1, padding=radius)
    return highest - lowest < 1 / 512


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


class TemporaryFolder:
    """A folder that is gone when nobody holds it any more, or at exit."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="xpsr-"))
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


def _reserve(file: Path, size: int) -> None:
    """Make a file of ``size`` bytes, whose room is taken at once: a mapped page without room would kill the process."""
    try:
        with file.open("wb") as new:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(new.fileno(), 0, size)
            else:
                new.truncate(size)
    except OSError as error:
        place, needed = file.parent.parent, f"{size / 2**20:.0f} MiB"
        raise ImageError(
            f"{place} has no room for the {needed} that the regions of the result need: {error.strerror}. "
            f"The environment variable TMPDIR names another folder."
        ) from None


class Canvas:
    """Collects the regions of a result, in memory if there is one of them, else in a temporary file.

    Args:
        width: Of the result, in pixels.
        height: Of the result, in pixels.
        like: The input: its channels, bit depth, profile and metadata are those of the result.
        on_disk: Whether to use a file.

    Raises:
        ImageError: There is no room for the file.
    """

    def __init__(self, width: int, height: int, like: Picture, on_disk: bool) -> None:
        self._shape = (height, width, like.pixels.bands)
        self._dtype = np.dtype(np.uint8 if like.most == 255 else np.uint16)
        self._like = like
        self._folder = TemporaryFolder() if on_disk else None
        if self._folder:
            self._file = self._folder.path / "pixels"
            _reserve(self._file, math.prod(self._shape) * self._dtype.itemsize)
        else:
            self._pixels = np.empty(self._shape, self._dtype)

    def paste(self, region: Region, color: Tensor, alpha: Tensor | None) -> None:
        """Put in a restored region: colour, 1 3 H W, and alpha, 1 1 H W, in [0, 1]. Regions come row by row."""
        if self._like.is_gray:  # luma of ITU-R BT.601
            color = (color * color.new_tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)
        channels = color if alpha is None else torch.cat([color, alpha.to(color)], 1)
        new = (channels[0].float().clamp(0, 1) * self._like.most).permute(1, 2, 0).cpu().numpy()
        place = self._rows(region.top, region.bottom)[:, region.left : region.right]
        if region.fade_left or region.fade_top:
            weights = np.outer(_fade(region.size[1], region.fade_top), _fade(region.size[0], region.fade_left))
            new = place + (new - place) * weights[..., None]
        place[:] = new.round()

    def _rows(self, top: int, bottom: int) -> np.ndarray:
        if not self._folder:
            return self._pixels[top:bottom]
        # Mapped for one region at a time: what is mapped counts as memory that is used.
        offset = top * math.prod(self._shape[1:]) * self._dtype.itemsize
        return np.memmap(self._file, self._dtype, "r+", offset, (bottom - top, *self._shape[1:]))

    def picture(self) -> Picture:
        """The result, once all regions are there."""
        if not self._folder:
            return picture_of(self._pixels, like=self._like)
        height, width, channels = self._shape
        kind = "uchar" if self._dtype.itemsize == 1 else "ushort"
        image = pyvips.Image.rawload(str(self._file), width, height, channels, format=kind)
        return replace(picture_of(image, like=self._like), holds=self._folder)


def _fade(size: int, overlap: int) -> np.ndarray:
    """Weights of a region along an axis: 0, a straight line over the middle half of the overlap, then 1.

    The outer quarters are left to one region alone: close to its border it has seen the least.
    """
    if not overlap:
        return np.ones(size, np.float32)
    start, end = overlap / 4, 3 * overlap / 4
    return np.clip((np.arange(size, dtype=np.float32) + 0.5 - start) / (end - start), 0, 1).astype(np.float32)
