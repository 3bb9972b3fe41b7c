"""Unsharp masking of the high-resolution image, before it is degraded.

Real-ESRGAN (arXiv 2107.10833, section 4.1) trains on sharpened targets, so that the model produces sharp photos
without overshoot. The degradation also starts from the sharpened image.
"""

from __future__ import annotations

import torch
from torch import Tensor

from xpsr_sdk.builtin.kernels import blur, gaussian

_TAPS = 51  # 50, made odd
_SIGMA = 8.0  # OpenCV's value for a Gaussian of 51 taps: 0.3 * (25 - 1) + 0.8
_WEIGHT = 0.5
_THRESHOLD = 10 / 255


@torch.no_grad()
def sharpen(hr: Tensor) -> Tensor:
    """Sharpen edges. Pixels that differ from their surroundings by 10 of 255 levels or less stay as they are.

    Args:
        hr: 3 H W or B 3 H W in [0, 1], float32 or float64.

    Returns:
        The sharpened image in [0, 1], in the shape and dtype of ``hr``.
    """
    kernel = gaussian(_TAPS, (_SIGMA, _SIGMA))
    detail = hr - blur(hr, kernel)
    sharp = (hr + _WEIGHT * detail).clamp(0, 1)
    # The mask is blurred so that the border of a sharpened region is not visible.
    mask = blur((detail.abs() > _THRESHOLD).to(hr.dtype), kernel).clamp(0, 1)
    return hr + mask * (sharp - hr)
