"""Restores transparency: alpha is restored like a gray picture where it varies, and kept where it is flat."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

from xpsr_sdk.data.picture import Picture


def alpha_of(picture: Picture) -> Picture:
    """The transparency of a picture as a gray picture."""
    return replace(picture, pixels=picture.pixels[picture.pixels.bands - 1].copy(interpretation="b-w"), profile=None)


def restore_alpha(alpha: Tensor, restore: Callable[[Tensor], Tensor]) -> Tensor:
    """Restore alpha, 1 1 H W in [0, 1]. Flat parts stay exactly as they are.

    Args:
        alpha: Alpha, enlarged to the size of the result.
        restore: Restores an image, 1 3 H W in [0, 1]. It is not called if all of alpha is flat.
    """
    flat = is_flat(alpha)
    if bool(flat.all()):
        return alpha
    restored = restore(alpha.expand(-1, 3, -1, -1)).mean(1, keepdim=True).to(alpha)
    nearly = (restored - restored.round()).abs() < 0.02  # ringing at an edge would be visible as a veil
    return torch.where(flat, alpha, torch.where(nearly, restored.round(), restored))


def is_flat(alpha: Tensor, radius: int = 8) -> Tensor:
    """Where alpha, 1 1 H W, is constant up to ``radius`` pixels away. Returns 1 1 H W of bool."""
    highest = max_pool2d(alpha, 2 * radius + 1, stride=1, padding=radius)
    lowest = -max_pool2d(-alpha, 2 * radius + 1, stride=1, padding=radius)
    return highest - lowest < 1 / 512
