"""Makes the photos in examples/, in the state in which people have them, out of sharp ones.

    python -m tests.measurements.example_photos PHOTOS

PHOTOS holds city0@2x.jpg and space5@2x.jpg of the Debian package endless-sky-high-dpi; the cat comes with scikit-image.
The shipped model was trained on none of them.
"""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path

import numpy as np
import skimage.data
from PIL import Image, ImageFilter

HERE = Path(__file__).parents[2] / "examples"


def smaller(photo: Image.Image, blur: float) -> Image.Image:
    """A quarter of the size, after a blur of so many pixels."""
    size = photo.width // 4, photo.height // 4
    return photo.filter(ImageFilter.GaussianBlur(blur)).resize(size, Image.Resampling.BOX)


def noisy(photo: Image.Image, gray: float, color: float) -> Image.Image:
    """With noise that grows with the light, of so many levels in white."""
    levels, rng = np.asarray(photo, float), np.random.default_rng(0)
    noise = gray * rng.normal(size=(*levels.shape[:2], 1)) + color * rng.normal(size=levels.shape)
    return Image.fromarray((levels + np.sqrt(levels / 255 + 0.05) * noise).clip(0, 255).astype(np.uint8))


parser = ArgumentParser(description=__doc__)
parser.add_argument("photos", type=Path)
photos = parser.parse_args().photos
city = Image.open(photos / "city0@2x.jpg").convert("RGB").crop((160, 0, 1440, 720))
hall = Image.open(photos / "space5@2x.jpg").convert("RGB").crop((80, 0, 1360, 720))
cat = Image.fromarray(skimage.data.chelsea())

noisy(smaller(city, blur=1.6), gray=0, color=3).save(HERE / "photo.jpg", quality=55)
city.save(HERE / "photo-original.jpg", quality=88)
cat.resize((226, 150), Image.Resampling.BICUBIC).save(HERE / "web.jpg", quality=35)
noisy(smaller(hall, blur=1.2), gray=10, color=10).save(HERE / "indoor.jpg", quality=85)
hall.save(HERE / "indoor-original.jpg", quality=88)
