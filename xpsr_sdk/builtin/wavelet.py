"""The biorthogonal 9/7 wavelet of JPEG 2000, computed by lifting: it turns an image into latents and back.

If an image is simply cut into blocks to get latents, the blocks become visible where a network makes errors. Here each
latent stands for a smooth pattern that overlaps with its neighbours, so that there are no visible edges. The transform
is invertible, and so close to orthonormal that the squared error of latents is about that of pixels.

Daubechies and Sweldens, "Factoring wavelet transforms into lifting steps", 1998.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

LIFTING = (-1.586134342, -0.05298011854, 0.8829110762, 0.4435068522)
"""Weights of the lifting steps, which add neighbours to the odd samples and to the even samples in turn."""
SCALE = 1.149604398
"""Factor that gives the low and the high band the same scale."""


def analyse(image: Tensor, stride: int) -> Tensor:
    """Turn an image, B C H W, into latents, B C*stride^2 H/stride W/stride.

    ``stride`` must be a power of two that divides H and W.
    """
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
    """Turn latents back into an image, B C H W. It is the inverse of ``analyse``."""
    channels = latents.shape[1] // stride**2
    image, rest = latents[:, :channels], latents[:, channels:]
    finest = 1
    while finest < stride:
        here = 3 * channels * finest**2
        finer, rest = rest[:, :here], rest[:, here:]
        # The details of this level lie on a grid that is ``finest`` times as fine as that of the latents.
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
    """The right neighbour of each sample. The image is mirrored at its border."""
    return torch.cat([x[..., 1:], x[..., -1:]], dim=-1)


def _previous(x: Tensor) -> Tensor:
    """The left neighbour of each sample. The image is mirrored at its border."""
    return torch.cat([x[..., :1], x[..., :-1]], dim=-1)
