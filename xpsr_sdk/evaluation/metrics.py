"""PSNR and SSIM of two arrays: the built-in metrics, for callers that have the pixels at hand.

Images are arrays H W 3, RGB, in [0, 255].
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from xpsr_sdk.builtin.pixel_metrics import Channel, ChannelOptions, Psnr, Ssim, SsimOptions
from xpsr_sdk.errors import ImageError

Image = npt.NDArray[Any]


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
    return _measured(Psnr(ChannelOptions(channel=channel)), a, b, crop)


def ssim(a: Image, b: Image, *, channel: Channel = "y", crop: int = 0) -> float:
    """Structural similarity, at most 1; see ``xpsr_sdk.builtin.pixel_metrics.Ssim`` for what is computed.

    Args:
        a: H W 3, RGB, in [0, 255].
        b: The same size as ``a``.
        channel: Measure luma (``"y"``) or all three channels (``"rgb"``).
        crop: Pixels left out at each side.

    Raises:
        ImageError: The sizes differ, an image is not H W 3, or less than the window is left after the crop.
    """
    return _measured(Ssim(SsimOptions(channel=channel)), a, b, crop)


def _cropped(image: Image, crop: int) -> Image:
    """``image`` without ``crop`` pixels at each side.

    Raises:
        ImageError: Nothing would be left.
    """
    height, width = image.shape[:2]
    if min(height, width) <= 2 * crop:
        raise ImageError(f"A crop of {crop} leaves nothing of an image of {width} x {height} pixels.")
    return image[crop : height - crop, crop : width - crop]


def _measured(metric: Psnr | Ssim, a: Image, b: Image, crop: int) -> float:
    for image in (a, b):
        if image.ndim != 3 or image.shape[2] != 3:
            raise ImageError(f"An image to measure has the shape H W 3, not {image.shape}.")
    if a.shape != b.shape:
        raise ImageError(
            f"The images differ in size: {a.shape[1]} x {a.shape[0]} and {b.shape[1]} x {b.shape[0]} pixels."
        )
    a, b = _cropped(a, crop), _cropped(b, crop)
    height, width, _ = a.shape
    if min(height, width) < metric.min_side:
        raise ImageError(
            f"SSIM needs at least {metric.min_side} x {metric.min_side} pixels, and this image is {width} x {height}."
        )
    return float(metric.measure(as_tensor(a).double() / 255, as_tensor(b).double() / 255))


def as_tensor(image: Image) -> torch.Tensor:
    """H W 3 as 1 3 H W, in the same numbers."""
    return torch.tensor(np.ascontiguousarray(image)).permute(2, 0, 1)[None]
