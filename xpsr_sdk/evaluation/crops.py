"""Where methods differ most: a square of each photo, found by the mean absolute difference of luma."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from xpsr_sdk.data.images import read_image
from xpsr_sdk.errors import XPSRError

SIDE = 256
CELL = 16
"""Differences are averaged in squares of so many pixels before the best place is looked for."""
Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Crop:
    """A place of a photo.

    Attributes:
        photo: Its name.
        box: Left, upper, right and lower edge, in pixels of the restored photo.
        difference: Mean absolute difference there, in gray levels of 255; of the two methods that differ most.
    """

    photo: str
    box: Box
    difference: float


def crops_that_differ(
    methods: Mapping[str, Mapping[str, Path]], references: Mapping[str, Path], count: int, side: int = SIDE
) -> list[Crop]:
    """The crops in which methods differ most, at most one for each photo, the most different first.

    Args:
        methods: The files of each method, by photo. A single method is compared with the references.
        references: The originals.
        count: How many at most.
        side: Width and height of a crop, in pixels; smaller for smaller photos.
    """
    crops = []
    for photo in sorted({photo for files in methods.values() for photo in files}):
        versions = [files[photo] for files in methods.values() if photo in files]
        if len(methods) == 1 and photo in references:
            versions.append(references[photo])
        crop = _most_different(photo, versions, side)
        if crop is not None and crop.difference > 0:
            crops.append(crop)
    return sorted(crops, key=lambda crop: -crop.difference)[:count]


def _most_different(photo: str, versions: Sequence[Path], side: int) -> Crop | None:
    """None where fewer than two versions of one size can be read."""
    try:
        images = [np.asarray(read_image(path).image.convert("L"), dtype=np.float32) for path in versions]
    except XPSRError:
        return None
    images = [image for image in images if image.shape == images[0].shape]
    if len(images) < 2:
        return None
    found = [_best_place(np.abs(a - b), side) for a, b in combinations(images, 2)]
    box, difference = max(found, key=lambda place: place[1])
    return Crop(photo, box, difference)


def _best_place(difference: npt.NDArray[np.float32], side: int) -> tuple[Box, float]:
    """The square with the largest mean, and that mean."""
    height, width = difference.shape
    cell = min(CELL, height, width)
    rows, columns = height // cell, width // cell
    cells = difference[: rows * cell, : columns * cell].reshape(rows, cell, columns, cell).mean((1, 3))
    tall, wide = min(rows, max(1, side // cell)), min(columns, max(1, side // cell))
    sums = np.zeros((rows + 1, columns + 1))
    sums[1:, 1:] = cells.cumsum(0).cumsum(1)
    means = (sums[tall:, wide:] - sums[:-tall, wide:] - sums[tall:, :-wide] + sums[:-tall, :-wide]) / (tall * wide)
    row, column = np.unravel_index(means.argmax(), means.shape)
    left, top = int(column) * cell, int(row) * cell
    return (left, top, left + wide * cell, top + tall * cell), float(means[row, column])


def cut(path: Path, box: Box, size: tuple[int, int]) -> Image.Image:
    """A crop of a photo; of one with another size, the same part of the picture, enlarged without smoothing.

    Args:
        path: The photo.
        box: Left, upper, right and lower edge in a photo of ``size``.
        size: Width and height that the box refers to.
    """
    image = read_image(path).image
    if image.size == size:
        return image.crop(box)
    across, down = image.width / size[0], image.height / size[1]
    place = (box[0] * across, box[1] * down, box[2] * across, box[3] * down)
    return image.resize((box[2] - box[0], box[3] - box[1]), Image.Resampling.NEAREST, box=place)
