"""Blur kernels of the Real-ESRGAN degradation, and the blur itself.

The Gaussian, generalised and plateau families are functions of the squared Mahalanobis distance of each tap from the
centre. The sinc kernel is the ideal circular low-pass filter, which causes ringing at edges, as in oversharpened
photos.
Source: Wang et al., "Real-ESRGAN", arXiv 2107.10833, sections 3.1 and 3.3.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def gaussian(size: int, sigma: tuple[float, float], angle: float = 0.0, beta: float = 1.0) -> Tensor:
    """A (generalised) Gaussian, ``exp(-d^beta / 2)`` with d the squared Mahalanobis distance.

    Args:
        size: Taps in each direction, odd.
        sigma: Standard deviations along the two axes, in pixels.
        angle: Rotation of the axes, in radians.
        beta: The shape: 1 is the Gaussian, a smaller value has heavier tails, a larger value is closer to a box.

    Returns:
        ``size size`` weights that sum to 1, float64.
    """
    return _normalised(torch.exp(-0.5 * _squared_distance(size, sigma, angle) ** beta))


def plateau(size: int, sigma: tuple[float, float], angle: float = 0.0, beta: float = 1.0) -> Tensor:
    """A plateau-shaped kernel, ``1 / (1 + d^beta)``. Arguments and result are those of ``gaussian``."""
    return _normalised(1 / (1 + _squared_distance(size, sigma, angle) ** beta))


def sinc(size: int, cutoff: float) -> Tensor:
    """The ideal low-pass filter of a circular passband, cut off at ``size`` taps.

    Args:
        size: Taps in each direction, odd.
        cutoff: Radius of the passband, in radians per pixel; pi lets nearly everything pass.

    Returns:
        ``size size`` weights that sum to 1, some of them negative, float64.
    """
    x, y = _grid(size)
    radius = torch.hypot(x, y)
    kernel = cutoff * torch.special.bessel_j1(cutoff * radius) / (2 * math.pi * radius)
    # The formula is 0 / 0 at the centre; this is its limit.
    kernel[size // 2, size // 2] = cutoff**2 / (4 * math.pi)
    return _normalised(kernel)


def blur(image: Tensor, kernel: Tensor) -> Tensor:
    """Filter every channel with one kernel, reflecting the image at its borders.

    Args:
        image: ``... C H W``, 3 or 4 dimensions.
        kernel: ``k k`` with k odd.

    Returns:
        The blurred image, in the shape and dtype of ``image``.
    """
    height, width = image.shape[-2:]
    radius = kernel.shape[-1] // 2
    # An image cannot be reflected by more than its own size.
    mode = "reflect" if radius < min(height, width) else "replicate"
    padded = F.pad(image, (radius,) * 4, mode=mode)
    # FFT is used because most kernels are not separable, and direct convolution with a wide kernel is slow on a CPU.
    size = [_fft_length(n) for n in padded.shape[-2:]]
    spectrum = torch.fft.rfft2(padded, s=size) * torch.fft.rfft2(kernel.to(image), s=size)
    whole: Tensor = torch.fft.irfft2(spectrum, s=size)
    return whole[..., 2 * radius : 2 * radius + height, 2 * radius : 2 * radius + width]


def _fft_length(minimum: int) -> int:
    """The next multiple of 16, because FFTs of lengths with a large prime factor are slow."""
    return -(-minimum // 16) * 16


def _grid(size: int) -> tuple[Tensor, Tensor]:
    """Coordinates x and y of the taps, with 0 at the centre."""
    axis = torch.arange(size, dtype=torch.float64) - size // 2
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return x, y


def _squared_distance(size: int, sigma: tuple[float, float], angle: float) -> Tensor:
    x, y = _grid(size)
    along = math.cos(angle) * x + math.sin(angle) * y
    across = math.cos(angle) * y - math.sin(angle) * x
    return (along / sigma[0]) ** 2 + (across / sigma[1]) ** 2


def _normalised(kernel: Tensor) -> Tensor:
    return kernel / kernel.sum()
