"""Colour correction: gives the result the colours of the input, and keeps its detail."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad

from xpsr_sdk.config import ColorCorrection


def correct_color(image: Tensor, reference: Tensor, method: ColorCorrection) -> Tensor:
    """Give ``image`` the colours of ``reference``; both are B 3 H W in [0, 1]. The result is clamped to [0, 1].

    ``adain`` copies the mean and standard deviation of each RGB channel (arXiv 1703.06868). ``wavelet`` copies
    everything coarser than a few pixels (five levels of an à-trous transform, as in StableSR, arXiv 2305.07015).
    ``lab`` copies the mean and standard deviation of each channel of CIE L*a*b*, in which lightness and colour are
    separate (Reinhard et al., Color Transfer between Images, 2001).
    """
    if method == "adain":
        image = _adain(image, reference)
    elif method == "wavelet":
        detail = image - _blur(image)
        image = detail + _blur(reference)
    elif method == "lab":
        image = _to_rgb(_adain(_to_lab(image), _to_lab(reference)))
    return image.clamp(0, 1)


def _adain(image: Tensor, reference: Tensor) -> Tensor:
    def moments(x: Tensor) -> tuple[Tensor, Tensor]:
        variance, mean = torch.var_mean(x, dim=(2, 3), keepdim=True)
        return (variance + 1e-5).sqrt(), mean

    (std, mean), (wanted_std, wanted_mean) = moments(image), moments(reference)
    return (image - mean) / std * wanted_std + wanted_mean


def _blur(image: Tensor, levels: int = 5) -> Tensor:
    """The coarse part of an à-trous wavelet transform: 3x3 binomial blurs, whose dilation doubles at each level."""
    row = torch.tensor([0.25, 0.5, 0.25], device=image.device, dtype=image.dtype)
    kernel = torch.outer(row, row).expand(image.shape[1], 1, 3, 3)
    for level in range(levels):
        radius = 2**level
        padded = pad(image, (radius,) * 4, mode="replicate")
        image = conv2d(padded, kernel, groups=image.shape[1], dilation=radius)
    return image


_XYZ = torch.tensor(  # linear sRGB to CIE XYZ, relative to its white, D65 (IEC 61966-2-1)
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ],
    dtype=torch.float64,
)
_XYZ = _XYZ / _XYZ.sum(1, keepdim=True)
_LAB = torch.tensor([[0, 116, 0], [500, -500, 0], [0, 200, -200]], dtype=torch.float64)


def _times(matrix: Tensor, image: Tensor) -> Tensor:
    return torch.einsum("ij,bjhw->bihw", matrix.to(image), image)


def _to_lab(rgb: Tensor) -> Tensor:
    """Convert sRGB in [0, 1] to CIE L*a*b*, with L* without its offset of -16. Both are B 3 H W."""
    linear = torch.where(rgb > 0.04045, ((rgb + 0.055) / 1.055).clamp(min=0) ** 2.4, rgb / 12.92)
    xyz = _times(_XYZ, linear)
    roots = torch.where(xyz > (6 / 29) ** 3, xyz.clamp(min=1e-6) ** (1 / 3), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return _times(_LAB, roots)


def _to_rgb(lab: Tensor) -> Tensor:
    """The inverse of ``_to_lab``. Colours outside of sRGB give values outside of [0, 1]."""
    roots = _times(torch.linalg.inv(_LAB), lab)
    xyz = torch.where(roots > 6 / 29, roots**3, 3 * (6 / 29) ** 2 * (roots - 4 / 29))
    linear = _times(torch.linalg.inv(_XYZ), xyz)
    return torch.where(linear > 0.0031308, 1.055 * linear.clamp(min=1e-6) ** (1 / 2.4) - 0.055, 12.92 * linear)
