"""PSNR and SSIM, as papers on super-resolution report them.

Images are arrays H W 3, RGB, in [0, 255]. ``channel="y"`` measures luma: ITU-R BT.601 in the range 16 to 235,
as MATLAB's ``rgb2ycbcr`` defines it, not rounded. ``channel="rgb"`` measures all three channels together.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from xpsr_sdk.errors import ImageError

Channel = Literal["y", "rgb"]
Image = npt.NDArray[Any]

PEAK = 255.0
SSIM_WINDOW = 11
SSIM_SIGMA = 1.5
SSIM_K1, SSIM_K2 = 0.01, 0.03


def psnr(a: Image, b: Image, *, channel: Channel = "y", crop: int = 0) -> float:
    """Peak signal-to-noise ratio in dB, with a peak of 255; ``inf`` for equal images.

    Args:
        a: H W 3, RGB, in [0, 255].
        b: The same size as ``a``.
        channel: Measure luma (``"y"``) or all three channels (``"rgb"``).
        crop: Pixels left out at each side.

    Raises:
        ImageError: The sizes differ, an image is not H W 3, or the crop leaves nothing.
    """
    a, b = _prepare(a, b, channel, crop)
    mse = float(np.mean((a - b) ** 2))
    return math.inf if mse == 0 else 10 * math.log10(PEAK**2 / mse)


def ssim(a: Image, b: Image, *, channel: Channel = "y", crop: int = 0) -> float:
    """Structural similarity, at most 1.

    An 11 x 11 Gaussian window of sigma 1.5, only where the image holds all of it; K1 0.01, K2 0.03, data
    range 255; with ``channel="rgb"`` the mean of the three channels. Wang et al., "Image Quality Assessment:
    From Error Visibility to Structural Similarity", IEEE TIP 2004.

    Args:
        a: H W 3, RGB, in [0, 255].
        b: The same size as ``a``.
        channel: Measure luma (``"y"``) or all three channels (``"rgb"``).
        crop: Pixels left out at each side.

    Raises:
        ImageError: The sizes differ, an image is not H W 3, or less than the window is left after the crop.
    """
    a, b = _prepare(a, b, channel, crop)
    height, width, _ = a.shape
    if min(height, width) < SSIM_WINDOW:
        raise ImageError(
            f"SSIM needs at least {SSIM_WINDOW} x {SSIM_WINDOW} pixels, and this image is {width} x {height}."
        )
    x, y = (torch.from_numpy(image).permute(2, 0, 1)[:, None] for image in (a, b))
    mean_x, mean_y = _blur(x), _blur(y)
    variance_x = _blur(x * x) - mean_x**2
    variance_y = _blur(y * y) - mean_y**2
    covariance = _blur(x * y) - mean_x * mean_y
    c1, c2 = (SSIM_K1 * PEAK) ** 2, (SSIM_K2 * PEAK) ** 2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    structure = (2 * covariance + c2) / (variance_x + variance_y + c2)
    return float((luminance * structure).mean())


def luma(image: Image) -> npt.NDArray[np.float64]:
    """H W 1 in [16, 235]: the Y of BT.601, of RGB in [0, 255]."""
    weights = np.array([65.481, 128.553, 24.966]) / PEAK
    return 16 + (image.astype(np.float64) @ weights)[..., None]


def cropped(image: Image, crop: int) -> Image:
    """``image`` without ``crop`` pixels at each side.

    Raises:
        ImageError: Nothing would be left.
    """
    height, width = image.shape[:2]
    if min(height, width) <= 2 * crop:
        raise ImageError(f"A crop of {crop} leaves nothing of an image of {width} x {height} pixels.")
    return image[crop : height - crop, crop : width - crop]


def _prepare(a: Image, b: Image, channel: Channel, crop: int) -> tuple[Image, Image]:
    for image in (a, b):
        if image.ndim != 3 or image.shape[2] != 3:
            raise ImageError(f"An image to measure has the shape H W 3, not {image.shape}.")
    if a.shape != b.shape:
        raise ImageError(
            f"The images differ in size: {a.shape[1]} x {a.shape[0]} and {b.shape[1]} x {b.shape[0]} pixels."
        )
    a, b = cropped(a, crop), cropped(b, crop)
    return (luma(a), luma(b)) if channel == "y" else (a.astype(np.float64), b.astype(np.float64))


def _blur(x: torch.Tensor) -> torch.Tensor:
    """Gaussian mean around each pixel of C 1 H W, where the window fits."""
    offsets = torch.arange(SSIM_WINDOW, dtype=x.dtype) - SSIM_WINDOW // 2
    gauss = torch.exp(-(offsets**2) / (2 * SSIM_SIGMA**2))
    gauss = gauss / gauss.sum()
    return F.conv2d(F.conv2d(x, gauss.view(1, 1, -1, 1)), gauss.view(1, 1, 1, -1))
