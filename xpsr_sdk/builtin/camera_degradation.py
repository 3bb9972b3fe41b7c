"""What a camera does to a scene that is too far away: lens blur, pixels that are too large, noise, and sharpening.

Photos that come straight from a camera are not as bad as the images of Real-ESRGAN's degradation, but they have a flaw
that those lack: the camera has sharpened them, so that edges carry halos. The order of the steps is that of a camera.
Light is blurred by the lens, gathered by the pixels and counted with photon noise (in linear light); then the picture
is developed, its noise is smoothed, its edges are sharpened, and it is saved as JPEG (in display values). Pairs of the
same scene from two focal lengths show all of this: Cai et al., "Toward Real-World Single Image Super-Resolution",
arXiv 1904.00523; Wei et al., "Component Divide-and-Conquer for Real-World Image Super-Resolution", arXiv 2008.01928.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from xpsr_sdk.builtin.degradation_options import PositiveRange, QualityRange, WeightRange
from xpsr_sdk.builtin.degradation_tools import Dice, DrawnDegradation, jpeg
from xpsr_sdk.builtin.kernels import blur, gaussian
from xpsr_sdk.contracts import Options

GAMMA = 2.2
"""Display values are linear light to the power of 1 / 2.2, which is close to sRGB."""


@dataclass(frozen=True)
class CameraRecord:
    """All parameters that were drawn for an image. The noise itself is not included.

    Attributes:
        sigma: Standard deviations of the lens blur along its two axes, pixels of the HR image.
        angle: Rotation of these axes, radians.
        photon_noise: Variance of the noise, per unit of linear light in [0, 1].
        smoothing: Standard deviation of the blur against noise, pixels of the LR image; 0 is none.
        sharpening: How strongly detail is emphasised; 0: not at all.
        sharpening_radius: Standard deviation of the blur that separates the detail, pixels of the LR image.
        jpeg_quality: Quality setting of the codec.
    """

    sigma: tuple[float, float]
    angle: float
    photon_noise: float
    smoothing: float
    sharpening: float
    sharpening_radius: float
    jpeg_quality: int


class CameraDegradation(DrawnDegradation[CameraRecord]):
    """A camera that is too far away. See the module for the steps and their sources."""

    class Config(Options):
        """Options of ``CameraDegradation``."""

        scale: int = Field(default=4, ge=1, le=8, description="How many times smaller the result is.")
        sigma: PositiveRange = Field(
            default=(0.8, 4.0), description="Standard deviation of the lens blur, pixels of the HR image."
        )
        photon_noise: PositiveRange = Field(
            default=(1e-5, 1.5e-3), description="Variance of the photon noise, per unit of linear light."
        )
        smoothing: WeightRange = Field(
            default=(0.0, 0.8), description="Standard deviation of the blur against noise, pixels of the LR image."
        )
        sharpening: WeightRange = Field(default=(0.0, 2.0), description="How much of the detail is added once more.")
        sharpening_radius: PositiveRange = Field(
            default=(0.5, 1.5), description="Radius of the sharpening, pixels of the LR image."
        )
        jpeg_quality: QualityRange = Field(default=(75, 100), description="Quality setting of the JPEG codec.")

    def __init__(self, config: Config | None = None) -> None:
        self.config = config or self.Config()
        self.scale = self.config.scale

    def draw(self, generator: torch.Generator) -> CameraRecord:
        """Draw the parameters of one image."""
        config, dice = self.config, Dice(generator)
        sigma = _log_uniform(dice, config.sigma)
        worst, best = config.jpeg_quality
        return CameraRecord(
            sigma=(sigma, sigma * dice.uniform((0.7, 1.0))),
            angle=dice.uniform((0, math.pi)),
            photon_noise=_log_uniform(dice, config.photon_noise),
            smoothing=dice.uniform(config.smoothing),
            sharpening=dice.uniform(config.sharpening),
            sharpening_radius=dice.uniform(config.sharpening_radius),
            jpeg_quality=dice.pick(range(worst, best + 1)),
        )

    @torch.no_grad()
    def apply(self, hr: Tensor, record: CameraRecord, generator: torch.Generator) -> Tensor:
        """Degrade one image, 3 H W, with the drawn parameters. Noise is drawn from the generator."""
        light = hr.to("cpu", torch.float32) ** GAMMA
        light = F.avg_pool2d(_blur(light, record.sigma, record.angle), self.scale).clamp(0, 1)
        noise = torch.randn(light.shape, generator=generator) * (record.photon_noise * light).sqrt()
        photo = (light + noise).clamp(0, 1) ** (1 / GAMMA)
        if record.smoothing:
            photo = _blur(photo, (record.smoothing, record.smoothing))
        detail = photo - _blur(photo, (record.sharpening_radius, record.sharpening_radius))
        return jpeg(photo + record.sharpening * detail, record.jpeg_quality).to(hr)


def _log_uniform(dice: Dice, bounds: tuple[float, float]) -> float:
    """A number between the bounds whose logarithm is evenly distributed."""
    return math.exp(dice.uniform((math.log(bounds[0]), math.log(bounds[1]))))


def _blur(image: Tensor, sigma: tuple[float, float], angle: float = 0.0) -> Tensor:
    taps = 2 * math.ceil(3 * max(sigma)) + 1
    return blur(image, gaussian(taps, sigma, angle))
