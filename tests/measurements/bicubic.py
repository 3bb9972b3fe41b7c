"""Upscale a folder bicubically (Pillow): the baseline of every table.

python -m tests.measurements.bicubic LR -o OUT
xpsr evaluate OUT HR
"""

from __future__ import annotations

from pathlib import Path

import click
from PIL import Image

from xpsr_sdk.data.files import find_images


@click.command()
@click.argument("lr", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "-o", "--output", required=True, type=click.Path(file_okay=False, path_type=Path), help="Folder to write."
)
@click.option("--scale", default=4, show_default=True, type=click.IntRange(1, 8), help="Times the size.")
def main(lr: Path, output: Path, scale: int) -> None:
    """Upscale every image of the folder LR into the folder OUTPUT."""
    for path in find_images(lr):
        target = (output / path.relative_to(lr)).with_suffix(".png")
        target.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(path) as image:
            size = (image.width * scale, image.height * scale)
            image.convert("RGB").resize(size, Image.Resampling.BICUBIC).save(target)


if __name__ == "__main__":
    main()
