"""Tiles leave no seams: at their borders, a tiled photo differs from the whole one as much as anywhere else."""

from __future__ import annotations

import numpy as np
from PIL import Image

from xpsr_sdk import build_pipeline
from xpsr_sdk.engine.tiling import plan_tiles

SCALE, TILE, OVERLAP = 2, 128, 32


def jumps(tiled: Image.Image, whole: Image.Image) -> tuple[np.ndarray, np.ndarray]:
    """The mean jump of the difference between neighbouring columns, and between neighbouring rows."""
    difference = np.asarray(tiled, float) - np.asarray(whole, float)
    return (
        np.abs(np.diff(difference, axis=1)).mean(axis=(0, 2)),
        np.abs(np.diff(difference, axis=0)).mean(axis=(1, 2)),
    )


def test_the_borders_of_tiles_cannot_be_told_from_the_rest() -> None:
    pipe = build_pipeline(model="nano", device="cpu", dtype="float32", scale=SCALE, seed=1, fidelity=0)
    photo = Image.open("examples/photo.jpg").convert("RGB").crop((0, 0, 104, 96))
    whole = pipe(photo, tile=512).image
    result = pipe(photo, tile=TILE, tile_overlap=OVERLAP, tile_batch=4)
    assert result.plan.tiles == 4
    stride = pipe.stride
    tiles = plan_tiles(photo.height * SCALE // stride, photo.width * SCALE // stride, TILE // stride, OVERLAP // stride)
    columns = {side * stride for tile in tiles for side in (tile.left, tile.right)}
    for jump, size in zip(jumps(result.image, whole), whole.size, strict=True):
        borders = [side for side in columns if 0 < side < size]
        at_borders = np.mean([jump[side - 1] for side in borders])
        assert at_borders < 1.25 * jump.mean()
