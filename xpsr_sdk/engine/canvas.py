"""Puts the restored regions of a photo together: in memory, or in a temporary file if there are several."""

from __future__ import annotations

import math
import os
import shutil
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyvips
import torch
from torch import Tensor

from xpsr_sdk.data.picture import Picture, picture_of
from xpsr_sdk.engine.regions import Region
from xpsr_sdk.errors import ImageError, NonFiniteResult
from xpsr_sdk.files.leftovers import new_temporary_folder
from xpsr_sdk.plugin_system.answers import extremes

PREFIX = "xpsr-"
"""How the names of temporary folders begin."""


class TemporaryFolder:
    """A folder that is deleted when this object is garbage-collected, or at exit."""

    def __init__(self) -> None:
        self.path = new_temporary_folder(PREFIX)
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


def _reserve(file: Path, size: int) -> None:
    """Make a file of ``size`` bytes, and allocate its disk space now: with a full disk, writing to a mapped page would
    kill the process."""
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
            f"Set the environment variable TMPDIR to another folder."
        ) from None


class Canvas:
    """Collects the regions of a result, in memory if there is one of them, else in a temporary file.

    Args:
        width: The width of the result, in pixels.
        height: The height of the result, in pixels.
        like: The input. The result gets its channels, bit depth, colour profile and metadata.
        on_disk: Whether to use a file.

    Raises:
        ImageError: There is no disk space for the file.
    """

    def __init__(self, width: int, height: int, like: Picture, on_disk: bool) -> None:
        self._shape = (height, width, like.pixels.bands)
        self._dtype = np.dtype(np.uint8 if like.max_level == 255 else np.uint16)
        self._like = like
        self._folder = TemporaryFolder() if on_disk else None
        if self._folder:
            self._file = self._folder.path / "pixels"
            _reserve(self._file, math.prod(self._shape) * self._dtype.itemsize)
        else:
            self._pixels = np.empty(self._shape, self._dtype)

    def paste(self, region: Region, color: Tensor, alpha: Tensor | None) -> None:
        """Put in a restored region: colour, 1 3 H W, and alpha, 1 1 H W, in [0, 1]. Regions come row by row.

        Raises:
            NonFiniteResult: There is NaN or infinity in it.
        """
        if self._like.is_gray:  # luma of ITU-R BT.601
            color = (color * color.new_tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)
        channels = color if alpha is None else torch.cat([color, alpha.to(color)], 1)
        if not math.isfinite(sum(extremes(channels))):
            raise NonFiniteResult(f"The restored pixels of {self._like.name} are not finite after the stage color.")
        new = (channels[0].float().clamp(0, 1) * self._like.max_level).permute(1, 2, 0).cpu().numpy()
        place = self._rows(region.top, region.bottom)[:, region.left : region.right]
        if region.fade_left or region.fade_top:
            weights = np.outer(_fade(region.size[1], region.fade_top), _fade(region.size[0], region.fade_left))
            new = place + (new - place) * weights[..., None]
        place[:] = new.round()

    def _rows(self, top: int, bottom: int) -> np.ndarray:
        if not self._folder:
            return self._pixels[top:bottom]
        # Only one region is mapped at a time, because mapped pages count as used memory.
        offset = top * math.prod(self._shape[1:]) * self._dtype.itemsize
        return np.memmap(self._file, self._dtype, "r+", offset, (bottom - top, *self._shape[1:]))

    def picture(self) -> Picture:
        """The result, after all regions were pasted."""
        if not self._folder:
            return picture_of(self._pixels, like=self._like)
        height, width, channels = self._shape
        kind = "uchar" if self._dtype.itemsize == 1 else "ushort"
        image = pyvips.Image.rawload(str(self._file), width, height, channels, format=kind)
        return replace(picture_of(image, like=self._like), keeps_alive=self._folder)


def _fade(size: int, overlap: int) -> np.ndarray:
    """Weights of a region along an axis: 0, then a linear ramp over the middle half of the overlap, then 1.

    Each outer quarter of the overlap is taken from one region alone, because a region is worst near its own border,
    where it has the least context.
    """
    if not overlap:
        return np.ones(size, np.float32)
    start, end = overlap / 4, 3 * overlap / 4
    return np.clip((np.arange(size, dtype=np.float32) + 0.5 - start) / (end - start), 0, 1).astype(np.float32)
