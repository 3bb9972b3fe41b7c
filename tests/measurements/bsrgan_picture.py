"""Draws docs/images/bsrgan.png: one crop, and eight degradations of it, enlarged again.

python tests/measurements/bsrgan_picture.py
"""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image
from xpsr_bsrgan.degradation import BSRGANDegradation

from xpsr_sdk.data.images import read_image, to_image, to_tensor
from xpsr_sdk.data.seeds import generator_for

SIDE, COLUMNS, COUNT, GAP = 192, 3, 9, 4
PHOTO, PICTURE = Path("examples/photo-original.jpg"), Path("docs/images/bsrgan.png")


def main() -> None:
    """Write the picture."""
    photo = read_image(PHOTO).image
    left, top = (photo.width - SIDE) // 2, (photo.height - SIDE) // 2
    crop = photo.crop((left, top, left + SIDE, top + SIDE))
    hr = to_tensor(crop).expand(COUNT - 1, -1, -1, -1)
    lr = BSRGANDegradation()(hr, [generator_for("picture", i) for i in range(len(hr))])
    tiles = [crop, *(to_image(one[None]).resize(crop.size, Image.Resampling.NEAREST) for one in lr)]
    rows = -(-COUNT // COLUMNS)
    size = COLUMNS * (SIDE + GAP) - GAP, rows * (SIDE + GAP) - GAP
    picture = Image.new("RGB", size, "white")
    for i, tile in enumerate(tiles):
        picture.paste(tile, (i % COLUMNS * (SIDE + GAP), i // COLUMNS * (SIDE + GAP)))
    picture.save(PICTURE, optimize=True)


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
