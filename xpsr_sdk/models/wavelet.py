"""The biorthogonal 9/7 wavelet of JPEG 2000, by lifting: an image as latents whose neighbours overlap.

Latents that come from cutting an image into blocks show those blocks wherever a network is not quite right. Here each
latent stands for a smooth pattern that reaches into its neighbours, so that there are no edges to see. Nothing is lost,
and the transform is so close to orthonormal that the squared error of latents is that of pixels.

Daubechies and Sweldens, "Factoring wavelet transforms into lifting steps", 1998.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

LIFTING = (-1.586134342, -0.05298011854, 0.8829110762, 0.4435068522)
"""Weights of the steps: each adds neighbours to the odd samples and to the even ones in turn."""
SCALE = 1.149604398
"""Makes the low band as large as the high one."""


def analyse(image: Tensor, stride: int) -> Tensor:
    """Latents, B C*stride^2 H/stride W/stride, of B C H W; ``stride`` is a power of two that divides H and W."""
    details = []
    while stride > 1:
        left, right = _split(image)
        (low, vertical), (horizontal, diagonal) = (_split(half.mT) for half in (left, right))
        stride //= 2
        detail = torch.cat([vertical.mT, horizontal.mT, diagonal.mT], dim=1)
        details.append(pixel_unshuffle(detail, stride))
        image = low.mT
    return torch.cat([image, *reversed(details)], dim=1)


def synthesise(latents: Tensor, stride: int) -> Tensor:
    """The image, B C H W, of what ``analyse`` gives."""
    channels = latents.shape[1] // stride**2
    image, rest = latents[:, :channels], latents[:, channels:]
    finest = 1
    while finest < stride:
        here = 3 * channels * finest**2
        finer, rest = rest[:, :here], rest[:, here:]
        # The details of this level lie on a grid that is ``finest`` times as fine as the latents'.
        vertical, horizontal, diagonal = pixel_shuffle(finer, finest).mT.chunk(3, dim=1)
        left, right = _join(image.mT, vertical).mT, _join(horizontal, diagonal).mT
        image = _join(left, right)
        finest *= 2
    return image


def _split(x: Tensor) -> tuple[Tensor, Tensor]:
    """The low and the high band along the last axis."""
    even, odd = x[..., 0::2], x[..., 1::2]
    for to_odd, to_even in (LIFTING[:2], LIFTING[2:]):
        odd = odd + to_odd * (even + _next(even))
        even = even + to_even * (odd + _previous(odd))
    return even * SCALE, odd / SCALE


def _join(low: Tensor, high: Tensor) -> Tensor:
    """Undo ``_split``."""
    even, odd = low / SCALE, high * SCALE
    for to_odd, to_even in (LIFTING[2:], LIFTING[:2]):
        even = even - to_even * (odd + _previous(odd))
        odd = odd - to_odd * (even + _next(even))
    return torch.stack([even, odd], dim=-1).flatten(-2)


def _next(x: Tensor) -> Tensor:
    """Each sample's right neighbour; beyond the border the image is mirrored."""
    return torch.cat([x[..., 1:], x[..., -1:]], dim=-1)


def _previous(x: Tensor) -> Tensor:
    """Each sample's left neighbour; beyond the border the image is mirrored."""
    return torch.cat([x[..., :1], x[..., :-1]], dim=-1)
