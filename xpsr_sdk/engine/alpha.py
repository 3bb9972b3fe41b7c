"""Transparency: restored as a gray picture where it varies, left as it is where it is flat."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d


def restore_alpha(alpha: Tensor, restore: Callable[[Tensor], Tensor]) -> Tensor:
    """Alpha, 1 1 H W in [0, 1], restored; flat parts stay exactly as they are.

    Args:
        alpha: Enlarged to the size of the result.
        restore: Restores an image, 1 3 H W in [0, 1]; not called if all of alpha is flat.
    """
    flat = is_flat(alpha)
    if bool(flat.all()):
        return alpha
    restored = restore(alpha.expand(-1, 3, -1, -1)).mean(1, keepdim=True).to(alpha)
    nearly = (restored - restored.round()).abs() < 0.02  # what overshoots at an edge would be a veil beside it
    return torch.where(flat, alpha, torch.where(nearly, restored.round(), restored))


def is_flat(alpha: Tensor, radius: int = 8) -> Tensor:
    """Where alpha, 1 1 H W, has the same value in all directions, up to ``radius`` pixels away; B 1 H W, bool."""
    highest = max_pool2d(alpha, 2 * radius + 1, stride=1, padding=radius)
    lowest = -max_pool2d(-alpha, 2 * radius + 1, stride=1, padding=radius)
    return highest - lowest < 1 / 512
