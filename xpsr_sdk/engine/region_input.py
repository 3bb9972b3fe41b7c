"""Enlarges a region of the photo to the size at which it is restored: bicubically, and by an upscaler."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from xpsr_sdk.contracts import Upscaler
from xpsr_sdk.data.picture import Picture
from xpsr_sdk.engine.regions import Region

Box = tuple[float, float, float, float]
"""The left, top, right and bottom side, in pixels."""


def resized_region(picture: Picture, region: Region, width: int, height: int) -> tuple[Tensor, Tensor | None]:
    """A region of a picture that is enlarged to ``width`` x ``height``: colour, 1 3 H W, and alpha, 1 1 H W, in [0, 1].

    The enlargement is bicubic (a = -0.5). A pixel of the result does not depend on the region that it is computed
    with. Invisible colours, under full transparency, are replaced by visible colours nearby, so that they cannot bleed
    into edges.
    """
    levels, inside = _window(picture, region, width, height, margin=3)
    enlarged = _resized(levels, region, inside)
    color, alpha = (enlarged[:, :-1], enlarged[:, -1:]) if picture.has_alpha else (enlarged, None)
    return color.expand(-1, 3, -1, -1).contiguous(), alpha


def upscaled_region(
    upscaler: Upscaler, picture: Picture, region: Region, width: int, height: int, run: Callable[[Tensor], Tensor]
) -> Tensor:
    """A region of a picture that an upscaler enlarges to ``width`` x ``height``: colour, 1 3 H W in [0, 1].

    The upscaler enlarges by its own scale. Its result is then resized to that size, bicubically and antialiased.

    Args:
        upscaler: The upscaler, whose scale and halo are read.
        picture: The photo.
        region: A region of the result.
        width: The width of the whole result.
        height: The height of the whole result.
        run: Runs the upscaler on an image, 1 3 h w.
    """
    levels, inside = _window(picture, region, width, height, margin=3 + upscaler.halo)
    color = levels[..., :-1] if picture.has_alpha else levels
    image = torch.from_numpy(color).permute(2, 0, 1)[None].expand(-1, 3, -1, -1).contiguous()
    enlarged = run(image)[0].permute(1, 2, 0).numpy()
    left, top, right, bottom = (side * upscaler.scale for side in inside)
    return _resized(enlarged, region, (left, top, right, bottom))


def _window(picture: Picture, region: Region, width: int, height: int, margin: int) -> tuple[np.ndarray, Box]:
    """The pixels of a picture that a region depends on, h w C in [0, 1], and the box of the region in them."""
    across, down = picture.size[0] / width, picture.size[1] / height
    margin = math.ceil(margin * max(across, down, 1))  # a filter that shrinks reaches further
    box = (region.left * across, region.top * down, region.right * across, region.bottom * down)
    left, top = (max(math.floor(side) - margin, 0) for side in box[:2])
    right, bottom = (min(math.ceil(s) + margin, most) for s, most in zip(box[2:], picture.size, strict=True))
    levels = picture.window(left, top, right - left, bottom - top).astype(np.float32) / picture.max_level
    if picture.has_alpha:
        levels[..., :-1] = continue_color(levels[..., :-1], levels[..., -1])
    return levels, (box[0] - left, box[1] - top, min(box[2], right) - left, min(box[3], bottom) - top)


def _resized(levels: np.ndarray, region: Region, inside: Box) -> Tensor:
    """The inside of a box, resized to the region's size: 1 C H W in [0, 1]."""
    channels = [
        np.asarray(
            Image.fromarray(np.ascontiguousarray(levels[..., i])).resize(region.size, Image.Resampling.BICUBIC, inside)
        )
        for i in range(levels.shape[-1])
    ]
    return torch.from_numpy(np.stack(channels)[None]).clamp(0, 1)


def continue_color(color: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Fill the invisible pixels of a colour image, H W C, from the nearest visible ones.

    Pixels are invisible where alpha, H W, is 0. They get averages of larger and larger squares, weighted by alpha
    ("push-pull", Gortler et al., The Lumigraph, 1996).
    """
    weight = torch.from_numpy(alpha)[None, None]
    filled = _push_pull(torch.from_numpy(color).permute(2, 0, 1)[None] * weight, weight)
    known = alpha[..., None] > 0
    return np.where(known, color, filled[0].permute(1, 2, 0).numpy())


def _push_pull(weighted: Tensor, weight: Tensor) -> Tensor:
    """Weighted colours divided by their weights, 1 C H W. Where the weight is 0, the next coarser level is used."""
    own = weighted / weight.clamp(min=1e-6)
    if min(weight.shape[-2:]) < 2 or bool((weight > 0).all()):
        return own
    coarser = _push_pull(avg_pool2d(weighted, 2, ceil_mode=True), avg_pool2d(weight, 2, ceil_mode=True))
    return torch.where(weight > 0, own, interpolate(coarser, weight.shape[-2:], mode="bilinear"))
