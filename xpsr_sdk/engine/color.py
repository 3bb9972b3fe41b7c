"""Colour correction: the result's detail with the input's colours."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad

from xpsr_sdk.config import ColorCorrection


def correct_color(image: Tensor, reference: Tensor, method: ColorCorrection) -> Tensor:
    """Give ``image`` (B 3 H W in [0, 1]) the colours of ``reference`` (likewise), clamped to [0, 1].

    ``adain`` takes over mean and standard deviation of each channel (arXiv 1703.06868); ``wavelet`` takes over
    everything coarser than a few pixels (five levels of an à-trous transform, as StableSR does, arXiv 2305.07015).
    """
    if method == "adain":
        image = _adain(image, reference)
    elif method == "wavelet":
        detail = image - _blur(image)
        image = detail + _blur(reference)
    return image.clamp(0, 1)


def _adain(image: Tensor, reference: Tensor) -> Tensor:
    def moments(x: Tensor) -> tuple[Tensor, Tensor]:
        variance, mean = torch.var_mean(x, dim=(2, 3), keepdim=True)
        return (variance + 1e-5).sqrt(), mean

    (std, mean), (wanted_std, wanted_mean) = moments(image), moments(reference)
    return (image - mean) / std * wanted_std + wanted_mean


def _blur(image: Tensor, levels: int = 5) -> Tensor:
    """The coarse part of an à-trous wavelet transform: 3x3 binomial blurs, each twice as far apart as the last."""
    row = torch.tensor([0.25, 0.5, 0.25], device=image.device, dtype=image.dtype)
    kernel = torch.outer(row, row).expand(image.shape[1], 1, 3, 3)
    for level in range(levels):
        radius = 2**level
        padded = pad(image, (radius,) * 4, mode="replicate")
        image = conv2d(padded, kernel, groups=image.shape[1], dilation=radius)
    return image
