"""NIQE: how far the statistics of a photo are from those of sharp photographs.

Mittal, Soundararajan, Bovik: "Making a 'Completely Blind' Image Quality Analyzer", IEEE Signal Processing Letters 2013.
The parameters are those of the authors' published model. Luma is rounded; blocks have 96 x 96 pixels and do not
overlap; what does not fill a block is left out. The figures are those of pyiqa, or of BasicSR by the option ``luma``.
"""

from __future__ import annotations

import hashlib
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from safetensors.torch import load_file
from torch import Tensor

from xpsr_sdk import __version__
from xpsr_sdk.builtin.pixel_metrics import levels
from xpsr_sdk.config import PRESETS
from xpsr_sdk.contracts import Options

PARAMETERS = PRESETS / "metrics" / "niqe.safetensors"
BLOCK = 96
SHAPES = torch.arange(200, 10001, dtype=torch.float64) / 1000
"""The shape parameters that are tried for a generalized Gaussian distribution."""
RANGES = {"ycbcr": "16 to 235", "yiq": "0 to 255"}
NEIGHBOURS = ((0, 1), (1, 0), (1, 1), (1, -1))


class Niqe:
    """NIQE. 0 means the statistics of sharp photographs, and NaN that no block has texture.

    It is computed on the CPU in float64, as in other implementations. See ``xpsr_sdk.Metric`` for the contract.
    """

    class Config(Options):
        """The options."""

        luma: Literal["ycbcr", "yiq"] = Field(
            "yiq",
            description="What is measured: Y from 0 to 255, as in pyiqa; or MATLAB's Y from 16 to 235, as in BasicSR.",
        )

    needs_reference = False
    lower_is_better = True
    min_side = BLOCK

    def __init__(self, config: Config | None = None) -> None:
        self._luma = (config or self.Config()).luma
        self._parameters = load_file(PARAMETERS)
        digest = hashlib.sha256(PARAMETERS.read_bytes()).hexdigest()
        self.details = (
            f"on rounded Y (BT.601, {RANGES[self._luma]}), blocks of {BLOCK} x {BLOCK}; xpsr_sdk {__version__}; "
            f"niqe.safetensors {digest}"
        )

    def measure(self, images: Tensor, references: Tensor | None = None) -> Tensor:
        """The NIQE of each photo, B."""
        exact = images.cpu().double()
        rounded = (levels(exact, "y") if self._luma == "ycbcr" else 255 * _gray(exact)).round()
        return torch.stack([self._distance(photo[None]) for photo in rounded]).to(images.device, images.dtype)

    def _distance(self, photo: Tensor) -> Tensor:
        """The distance of the photo's statistics, 1 1 H W, from those of sharp photographs."""
        features = self._features(photo)
        mean = features.nanmean(dim=0)
        features = features[~features.isnan().any(dim=1)]
        if len(features) == 0:
            return torch.tensor(torch.nan, dtype=features.dtype)
        centered = features - features.mean(dim=0)
        covariance = centered.T @ centered / max(len(features) - 1, 1)  # of a single block zero, as in pyiqa
        between = (self._parameters["covariance"] + covariance) / 2
        away = self._parameters["mean"] - mean
        return (away @ torch.linalg.pinv(between) @ away).sqrt()

    def _features(self, photo: Tensor) -> Tensor:
        """36 figures of each block, N 36: 18 at full size, and 18 at half size."""
        rows, columns = (side // BLOCK * BLOCK for side in photo.shape[2:])
        photo = photo[..., :rows, :columns]
        scales = [
            _statistics(_blocks(self._normalized(scaled), side))
            for scaled, side in ((photo, BLOCK), (_halved(photo), BLOCK // 2))
        ]
        return torch.cat(scales, dim=1)

    def _normalized(self, photo: Tensor) -> Tensor:
        """Every pixel without the mean around it, over the standard deviation around it."""
        window = self._parameters["window"][None, None]

        def around(x: Tensor) -> Tensor:
            return F.conv2d(F.pad(x, (3, 3, 3, 3), mode="replicate"), window)

        mean = around(photo)
        deviation = (around(photo.square()) - mean.square()).abs().sqrt()
        return (photo - mean) / (deviation + 1)


def _gray(images: Tensor) -> Tensor:
    """B 1 H W in [0, 1]: the Y of YIQ."""
    weights = torch.tensor([0.299, 0.587, 0.114], dtype=images.dtype)
    return torch.einsum("bchw,c->bhw", images, weights)[:, None]


def _blocks(photo: Tensor, side: int) -> Tensor:
    """1 1 H W as N side side."""
    return photo[0, 0].unfold(0, side, side).unfold(1, side, side).flatten(0, 1)


def _statistics(blocks: Tensor) -> Tensor:
    """18 figures of each block, N 18: of its pixels, and of their products with four neighbours."""
    shape, left, right = _asymmetric_gaussian(blocks)
    figures = [shape, (left + right) / 2]
    for shifts in NEIGHBOURS:
        shape, left, right = _asymmetric_gaussian(blocks * blocks.roll(shifts, dims=(1, 2)))
        mean = (right - left) * (torch.lgamma(2 / shape) - torch.lgamma(1 / shape)).exp()
        figures += [shape, mean, left, right]
    return torch.stack(figures, dim=1)


def _asymmetric_gaussian(blocks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Shape, left and right scale of the asymmetric generalized Gaussian distribution that fits each block best."""
    x = blocks.flatten(1)
    squares = x.square()
    left, right = (((squares * side).sum(1) / side.sum(1)).sqrt() for side in (x < 0, x > 0))
    ratio = left / right
    wanted = x.abs().mean(1).square() / squares.mean(1)
    wanted = wanted * (ratio**3 + 1) * (ratio + 1) / (ratio**2 + 1).square()
    shape = SHAPES[_nearest(_moment_ratio(SHAPES), wanted)]
    scale = ((torch.lgamma(1 / shape) - torch.lgamma(3 / shape)) / 2).exp()
    return shape, left * scale, right * scale


def _moment_ratio(shape: Tensor) -> Tensor:
    return (2 * torch.lgamma(2 / shape) - torch.lgamma(1 / shape) - torch.lgamma(3 / shape)).exp()


def _nearest(rising: Tensor, wanted: Tensor) -> Tensor:
    """For each wanted value, the index of the nearest one in ``rising``."""
    above = torch.searchsorted(rising, wanted).clamp(1, len(rising) - 1)
    below = above - 1
    return torch.where(wanted - rising[below] <= rising[above] - wanted, below, above)


def _halved(photo: Tensor) -> Tensor:
    """1 1 H W at half its size, as MATLAB's ``imresize``: bicubic, antialiased, mirrored at the edges."""
    distance = torch.arange(-3.5, 4.0, dtype=photo.dtype).abs() / 2
    near = 1.5 * distance**3 - 2.5 * distance**2 + 1
    far = -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
    weights = torch.where(distance <= 1, near, far)
    weights = weights / weights.sum()
    for axis, kernel in ((2, weights.view(1, 1, -1, 1)), (3, weights.view(1, 1, 1, -1))):
        edges = photo.narrow(axis, 0, 3).flip(axis), photo.narrow(axis, photo.shape[axis] - 3, 3).flip(axis)
        padded = torch.cat([edges[0], photo, edges[1]], dim=axis)
        photo = F.conv2d(padded, kernel, stride=(2, 1) if axis == 2 else (1, 2))
    return photo
