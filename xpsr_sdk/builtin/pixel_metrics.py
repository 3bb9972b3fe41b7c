"""PSNR and SSIM, as papers on super-resolution report them.

``channel="y"`` measures luma: ITU-R BT.601 in the range 16 to 235, as MATLAB's ``rgb2ycbcr`` defines it, not rounded.
``channel="rgb"`` measures all three channels together.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from xpsr_sdk import __version__
from xpsr_sdk.contracts import Options

Channel = Literal["y", "rgb"]

PEAK = 255.0
SSIM_WINDOW = 11
SSIM_SIGMA = 1.5
SSIM_K1, SSIM_K2 = 0.01, 0.03
WHERE: dict[Channel, str] = {"y": "Y (BT.601, 16 to 235)", "rgb": "RGB"}


class ChannelOptions(Options):
    """The options of both."""

    channel: Channel = Field("y", description="What is measured: luma, or all three channels.")


class SsimOptions(ChannelOptions):
    """The options of SSIM."""

    as_pyiqa: bool = Field(
        False,
        description="Compute it as pyiqa does: luma is rounded to whole levels, and a structure that is negative "
        "counts as 0.",
    )


class Psnr:
    """Peak signal-to-noise ratio in dB, with a peak of 255; infinite for equal images.

    See ``xpsr_sdk.Metric`` for the contract.
    """

    Config = ChannelOptions
    needs_reference = True
    lower_is_better = False
    min_side = 1

    def __init__(self, config: ChannelOptions | None = None) -> None:
        self.channel = (config or ChannelOptions()).channel
        self.details = f"on {WHERE[self.channel]}, peak 255; xpsr_sdk {__version__}"

    def measure(self, images: Tensor, references: Tensor) -> Tensor:
        """The PSNR of each photo, B."""
        x, y = levels(images, self.channel), levels(references, self.channel)
        return 10 * torch.log10(PEAK**2 / (x - y).square().mean(dim=(1, 2, 3)))


class Ssim:
    """Structural similarity, at most 1.

    An 11 x 11 Gaussian window of sigma 1.5, only where the image holds all of it; K1 0.01, K2 0.03, data range 255;
    with ``channel="rgb"`` the mean of the three channels. Wang et al., "Image Quality Assessment: From Error Visibility
    to Structural Similarity", IEEE TIP 2004. See ``xpsr_sdk.Metric`` for the contract.
    """

    Config = SsimOptions
    needs_reference = True
    lower_is_better = False
    min_side = SSIM_WINDOW

    def __init__(self, config: SsimOptions | None = None) -> None:
        config = config or SsimOptions()
        self.channel, self._as_pyiqa = config.channel, config.as_pyiqa
        window = f"{SSIM_WINDOW} x {SSIM_WINDOW} Gaussian window, sigma {SSIM_SIGMA}"
        variant = ", rounded and without negative structure as in pyiqa" if self._as_pyiqa else ""
        self.details = f"on {WHERE[self.channel]}{variant}, {window}, valid region; xpsr_sdk {__version__}"

    def measure(self, images: Tensor, references: Tensor) -> Tensor:
        """The SSIM of each photo, B."""
        x, y = (levels(photo, self.channel).flatten(0, 1)[:, None] for photo in (images, references))
        if self._as_pyiqa:
            x, y = x.round(), y.round()
        mean_x, mean_y = _blur(x), _blur(y)
        variance_x = _blur(x * x) - mean_x**2
        variance_y = _blur(y * y) - mean_y**2
        covariance = _blur(x * y) - mean_x * mean_y
        c1, c2 = (SSIM_K1 * PEAK) ** 2, (SSIM_K2 * PEAK) ** 2
        luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
        structure = (2 * covariance + c2) / (variance_x + variance_y + c2)
        if self._as_pyiqa:
            structure = structure.relu()
        return (luminance * structure).unflatten(0, (len(images), -1)).mean(dim=(1, 2, 3, 4))


def levels(images: Tensor, channel: Channel) -> Tensor:
    """B 3 H W in [0, 1] as B C H W in gray levels of 255: three channels, or luma alone."""
    exact = images if images.device.type == "mps" else images.double()  # mps computes in float32 only
    return luma(exact) if channel == "y" else exact * PEAK


def luma(images: Tensor) -> Tensor:
    """B 1 H W in [16, 235]: the Y of BT.601, of RGB in [0, 1]."""
    weights = torch.tensor([65.481, 128.553, 24.966], dtype=images.dtype, device=images.device)
    return 16 + torch.einsum("bchw,c->bhw", images, weights)[:, None]


def _blur(x: Tensor) -> Tensor:
    """Gaussian mean around each pixel of N 1 H W, where the window fits."""
    offsets = torch.arange(SSIM_WINDOW, dtype=x.dtype, device=x.device) - SSIM_WINDOW // 2
    gauss = torch.exp(-(offsets**2) / (2 * SSIM_SIGMA**2))
    gauss = gauss / gauss.sum()
    return F.conv2d(F.conv2d(x, gauss.view(1, 1, -1, 1)), gauss.view(1, 1, 1, -1))
