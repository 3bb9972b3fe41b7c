"""The Real-ESRGAN second-order degradation: a photo is degraded twice in a row.

The steps are blur, resize, noise and JPEG; a second blur, resize and noise; then, in either order, JPEG and the resize
to the final size with a sinc filter. The order, kernels and ranges are from Wang et al., "Real-ESRGAN: Training
Real-World Blind Super-Resolution with Pure Synthetic Data", arXiv 2107.10833; the default ranges are XPSR's
(arXiv 2403.05049). JPEG is the real codec, not a differentiable imitation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from xpsr_sdk.builtin import kernels
from xpsr_sdk.builtin.degradation_options import (
    AroundOne,
    CutoffRange,
    PositiveRange,
    Probability,
    QualityRange,
    ResizeWeights,
    SizeRange,
    Weight,
    WeightRange,
    some_positive,
)
from xpsr_sdk.builtin.degradation_tools import (
    RESIZE_MODES,
    Dice,
    DrawnDegradation,
    ResizeMode,
    jpeg,
    resize_aliased,
    to_8_bit,
)
from xpsr_sdk.contracts import Options

BlurFamily = Literal["gaussian", "generalised", "plateau"]


# ---- What was drawn -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Blur:
    """A blur of the Gaussian families.

    Lengths are in pixels of the image that is blurred. In the second stage, that image has another size than HR.

    Attributes:
        family: Shape of the kernel.
        size: Taps in each direction, odd.
        sigma: Standard deviations along the two axes, pixels; equal if isotropic.
        angle: Rotation of the axes, radians.
        beta: Shape parameter of the generalised and plateau families, 1 for a Gaussian.
    """

    family: BlurFamily
    size: int
    sigma: tuple[float, float]
    angle: float
    beta: float

    def kernel(self) -> Tensor:
        """The weights, ``size size``."""
        shape = kernels.plateau if self.family == "plateau" else kernels.gaussian
        return shape(self.size, self.sigma, self.angle, self.beta)


@dataclass(frozen=True)
class Sinc:
    """A sinc filter: blur with ringing.

    Attributes:
        size: Taps in each direction, odd.
        cutoff: Radius of the passband, radians per pixel.
    """

    size: int
    cutoff: float

    def kernel(self) -> Tensor:
        """The weights, ``size size``."""
        return kernels.sinc(self.size, self.cutoff)


@dataclass(frozen=True)
class Noise:
    """One addition of noise.

    Attributes:
        kind: The distribution.
        level: For Gaussian noise, the standard deviation in levels of 255. For Poisson noise, a factor on the noise.
        gray: Whether all three channels get the same noise.
    """

    kind: Literal["gaussian", "poisson"]
    level: float
    gray: bool


@dataclass(frozen=True)
class StageRecord:
    """One pass of blur, resize, noise and JPEG.

    Attributes:
        blur: ``None`` if skipped.
        factor: Size after the resize, relative to the HR image (first stage) or to the LR image (second).
        mode: Interpolation of the resize.
        noise: The noise.
        jpeg_quality: Quality setting of the codec.
    """

    blur: Blur | Sinc | None
    factor: float
    mode: ResizeMode
    noise: Noise
    jpeg_quality: int


@dataclass(frozen=True)
class DegradationRecord:
    """All parameters that were drawn for an image. The noise itself is not included.

    Attributes:
        first: The first stage.
        second: The second stage. ``jpeg_last`` says when its JPEG is applied.
        final_mode: Interpolation of the resize to the LR size.
        final_sinc: The sinc filter after that resize, ``None`` if skipped.
        jpeg_last: Whether the second JPEG comes after the final resize and sinc, or before.
    """

    first: StageRecord
    second: StageRecord
    final_mode: ResizeMode
    final_sinc: Sinc | None
    jpeg_last: bool


# ---- Options --------------------------------------------------------------------------------------------


class KernelWeights(Options):
    """How often each family of kernels is drawn when a blur is not a sinc filter."""

    gaussian_iso: Weight = Field(default=0.45, description="Isotropic Gaussian.")
    gaussian_aniso: Weight = Field(default=0.25, description="Anisotropic Gaussian.")
    generalised_iso: Weight = Field(default=0.12, description="Isotropic generalised Gaussian.")
    generalised_aniso: Weight = Field(default=0.03, description="Anisotropic generalised Gaussian.")
    plateau_iso: Weight = Field(default=0.12, description="Isotropic plateau.")
    plateau_aniso: Weight = Field(default=0.03, description="Anisotropic plateau.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        some_positive(tuple(self.model_dump().values()))
        return self


# Family and isotropy, in the order of the fields above.
_FAMILIES: tuple[tuple[BlurFamily, bool], ...] = (
    ("gaussian", True),
    ("gaussian", False),
    ("generalised", True),
    ("generalised", False),
    ("plateau", True),
    ("plateau", False),
)


class Stage(Options):
    """Ranges of one pass of blur, resize, noise and JPEG; the defaults are the first stage's."""

    blur_probability: Probability = Field(default=1.0, description="Chance that the image is blurred.")
    sinc_probability: Probability = Field(default=0.1, description="Chance that a blur is a sinc filter.")
    sigma: PositiveRange = Field(default=(0.2, 3.0), description="Standard deviation of the other blurs, pixels.")
    resize_weights: ResizeWeights = Field(
        default=(0.2, 0.7, 0.1), description="How often the image is resized up, down, or kept."
    )
    resize_range: AroundOne = Field(default=(0.15, 1.5), description="Smallest factor down, largest up.")
    gaussian_probability: Probability = Field(default=0.5, description="Chance of Gaussian noise; else Poisson.")
    gaussian_sigma: WeightRange = Field(default=(1.0, 30.0), description="Gaussian noise, levels of 255.")
    poisson_scale: WeightRange = Field(default=(0.05, 3.0), description="Factor on the Poisson noise.")
    gray_probability: Probability = Field(default=0.4, description="Chance that the channels share their noise.")
    jpeg_quality: QualityRange = Field(default=(30, 95), description="Quality setting of the JPEG codec.")


class SecondStage(Stage):
    """The second, milder stage. Its resize is relative to the LR size."""

    blur_probability: Probability = Field(default=0.8, description="Chance that the image is blurred.")
    sigma: PositiveRange = Field(default=(0.2, 1.5), description="Standard deviation of the other blurs, pixels.")
    resize_weights: ResizeWeights = Field(
        default=(0.3, 0.4, 0.3), description="How often the image is resized up, down, or kept."
    )
    resize_range: AroundOne = Field(default=(0.3, 1.2), description="Smallest factor down, largest up.")
    gaussian_sigma: WeightRange = Field(default=(1.0, 25.0), description="Gaussian noise, levels of 255.")
    poisson_scale: WeightRange = Field(default=(0.05, 2.5), description="Factor on the Poisson noise.")


# ---- Drawing --------------------------------------------------------------------------------------------


class RealESRGANDegradation(DrawnDegradation[DegradationRecord]):
    """The default degradation: two rounds of blur, resize, noise and JPEG. See the module for its sources."""

    class Config(Options):
        """Options of ``RealESRGANDegradation``."""

        scale: int = Field(default=4, ge=1, le=8, description="How many times smaller the result is.")
        kernel_sizes: SizeRange = Field(default=(7, 21), description="Narrowest and widest kernel, pixels, odd.")
        kernels: KernelWeights = Field(
            default=KernelWeights(), description="How often each family of kernels is drawn."
        )
        generalised_beta: AroundOne = Field(default=(0.5, 4.0), description="Shape of the generalised Gaussians.")
        plateau_beta: AroundOne = Field(default=(1.0, 2.0), description="Shape of the plateau kernels.")
        sinc_cutoff: CutoffRange = Field(
            default=(math.pi / 3, math.pi),
            description="Passband of final and of narrow sinc filters, radians a pixel.",
        )
        wide_sinc_cutoff: CutoffRange = Field(
            default=(math.pi / 5, math.pi),
            description="Passband of sinc filters in the two blurs from 13 taps on.",
        )
        first: Stage = Field(default=Stage(), description="Ranges of the first stage.")
        second: SecondStage = Field(default=SecondStage(), description="Ranges of the second stage.")
        final_sinc_probability: Probability = Field(default=0.8, description="Chance of a sinc filter at the end.")

    def __init__(self, config: Config | None = None) -> None:
        self.config = config or self.Config()
        self.scale = self.config.scale

    def draw(self, generator: torch.Generator) -> DegradationRecord:
        """Draw the parameters of one image."""
        config, dice = self.config, Dice(generator)
        first, second = self._draw_stage(config.first, dice), self._draw_stage(config.second, dice)
        final_sinc = None
        if dice.chance(config.final_sinc_probability):
            final_sinc = Sinc(self._draw_size(dice), dice.uniform(config.sinc_cutoff))
        mode = dice.pick(RESIZE_MODES)
        return DegradationRecord(first, second, mode, final_sinc, jpeg_last=dice.chance(0.5))

    @torch.no_grad()
    def apply(self, hr: Tensor, record: DegradationRecord, generator: torch.Generator) -> Tensor:
        """Degrade one image, 3 H W, with the drawn parameters. Noise is drawn from the generator."""
        height, width = hr.shape[-2:]
        small = height // self.scale, width // self.scale
        image = _blur_resize_noise(hr.to("cpu", torch.float32), record.first, (height, width), generator)
        image = jpeg(image, record.first.jpeg_quality)
        image = _blur_resize_noise(image, record.second, small, generator)
        if not record.jpeg_last:
            image = jpeg(image, record.second.jpeg_quality)
        image = _blur(resize_aliased(image, small, record.final_mode), record.final_sinc)
        if record.jpeg_last:
            image = jpeg(image, record.second.jpeg_quality)
        return to_8_bit(image).to(hr)

    def _draw_stage(self, stage: Stage, dice: Dice) -> StageRecord:
        blur = self._draw_blur(stage, dice) if dice.chance(stage.blur_probability) else None
        down, up = stage.resize_range
        factor = dice.uniform(dice.pick(((1.0, up), (down, 1.0), (1.0, 1.0)), stage.resize_weights))
        mode = dice.pick(RESIZE_MODES)
        gray = dice.chance(stage.gray_probability)
        if dice.chance(stage.gaussian_probability):
            noise = Noise("gaussian", dice.uniform(stage.gaussian_sigma), gray)
        else:
            noise = Noise("poisson", dice.uniform(stage.poisson_scale), gray)
        worst, best = stage.jpeg_quality
        return StageRecord(blur, factor, mode, noise, dice.pick(range(worst, best + 1)))

    def _draw_blur(self, stage: Stage, dice: Dice) -> Blur | Sinc:
        config, size = self.config, self._draw_size(dice)
        if dice.chance(stage.sinc_probability):
            # A low cutoff needs a wide kernel, since a narrow one would cut off the ripples of the sinc function.
            cutoff = config.sinc_cutoff if size < 13 else config.wide_sinc_cutoff
            return Sinc(size, dice.uniform(cutoff))
        family, isotropic = dice.pick(_FAMILIES, list(config.kernels.model_dump().values()))
        sigma = dice.uniform(stage.sigma)
        sigmas, angle = (sigma, sigma), 0.0
        if not isotropic:
            sigmas, angle = (sigma, dice.uniform(stage.sigma)), dice.uniform((-math.pi, math.pi))
        beta = 1.0
        if family != "gaussian":
            # Values below 1 and above 1 are equally likely, whatever the bounds.
            low, high = config.generalised_beta if family == "generalised" else config.plateau_beta
            beta = dice.uniform(dice.pick(((low, 1.0), (1.0, high))))
        return Blur(family, size, sigmas, angle, beta)

    def _draw_size(self, dice: Dice) -> int:
        low, high = self.config.kernel_sizes
        return dice.pick(range(low, high + 1, 2))


# ---- Applying -------------------------------------------------------------------------------------------


def _blur_resize_noise(
    image: Tensor, stage: StageRecord, reference: tuple[int, int], generator: torch.Generator
) -> Tensor:
    """Apply a stage without its JPEG. ``reference`` is the height and width that its factor multiplies."""
    height, width = (max(1, int(n * stage.factor)) for n in reference)
    image = resize_aliased(_blur(image, stage.blur), (height, width), stage.mode)
    add = _gaussian_noise if stage.noise.kind == "gaussian" else _poisson_noise
    return add(image, stage.noise, generator).clamp(0, 1)


def _blur(image: Tensor, blur: Blur | Sinc | None) -> Tensor:
    return image if blur is None else kernels.blur(image, blur.kernel())


def _gaussian_noise(image: Tensor, noise: Noise, generator: torch.Generator) -> Tensor:
    channels = 1 if noise.gray else 3
    return image + torch.randn(channels, *image.shape[-2:], generator=generator) * (noise.level / 255)


def _poisson_noise(image: Tensor, noise: Noise, generator: torch.Generator) -> Tensor:
    """Add photon noise. The number of photons is the number of distinct levels, rounded up to a power of 2."""
    signal = to_8_bit(image)
    if noise.gray:
        red, green, blue = signal
        signal = to_8_bit(0.2989 * red + 0.587 * green + 0.114 * blue)[None]
    levels = int(torch.bincount((signal * 255).round().flatten().int()).count_nonzero())
    photons = 2.0 ** math.ceil(math.log2(levels))
    return image + (torch.poisson(signal * photons, generator=generator) / photons - signal) * noise.level
