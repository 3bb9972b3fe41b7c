"""How the photo comes to the size at which it is restored: bicubic enlargement of a region."""

from __future__ import annotations

import math

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from xpsr_sdk.data.picture import Picture
from xpsr_sdk.engine.regions import Region


def enlarge(picture: Picture, region: Region, width: int, height: int) -> tuple[Tensor, Tensor | None]:
    """A region of a picture that is enlarged to ``width`` x ``height``: colour, 1 3 H W, and alpha, 1 1 H W, in [0, 1].

    Bicubic (a = -0.5); the same pixels whatever the region. Colour under full transparency is continued from what is
    visible beside it, so that nothing invisible bleeds into edges.
    """
    across, down = picture.size[0] / width, picture.size[1] / height
    box = (region.left * across, region.top * down, region.right * across, region.bottom * down)
    left, top = (max(math.floor(side) - 3, 0) for side in box[:2])
    right, bottom = (min(math.ceil(s) + 3, most) for s, most in zip(box[2:], picture.size, strict=True))
    levels = picture.window(left, top, right - left, bottom - top).astype(np.float32) / picture.max_level
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
