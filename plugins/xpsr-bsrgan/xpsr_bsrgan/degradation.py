"""The shuffled degradation of BSRGAN: two blurs, two resizes, noise, JPEG and a camera, in random order.

Zhang et al., "Designing a Practical Degradation Model for Deep Blind Image Super-Resolution", arXiv 2103.14006,
section 4. The seven operations come in any order, except that the resize to the final size follows the other
one; a JPEG comes last. The default ranges are the published ones for x4.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Self

import torch
from pydantic import AfterValidator, Field, model_validator
from torch import Tensor

from xpsr_bsrgan.camera import SensorNoise, draw_sensor_noise
from xpsr_sdk import Options
from xpsr_sdk.toolkit import (
    RESIZE_MODES,
    Dice,
    DrawnDegradation,
    Probability,
    QualityRange,
    ResizeMode,
    SizeRange,
    Weight,
    WeightRange,
    jpeg,
    kernels,
    ordered,
    resize_aliased,
    to_8_bit,
)

# ---- What is done to an image: each is called as operation(image, generator) ------------------------------


@dataclass(frozen=True)
class Blur:
    """A Gaussian blur.

    Attributes:
        size: Taps in each direction, odd.
        sigma: Standard deviations along the two axes, pixels.
        angle: Rotation of the axes, radians.
    """

    size: int
    sigma: tuple[float, float]
    angle: float

    def __call__(self, image: Tensor, generator: torch.Generator) -> Tensor:
        """Blur 3 H W."""
        return kernels.blur(image, kernels.gaussian(self.size, self.sigma, self.angle))


@dataclass(frozen=True)
class Resize:
    """A resize to a share of the HR image's size, by interpolation.

    Attributes:
        share: Of the HR image's height and width.
        mode: Interpolation, not antialiased.
    """

    share: float
    mode: ResizeMode

    def to(self, hr_size: tuple[int, int]) -> Callable[[Tensor, torch.Generator], Tensor]:
        """The operation, for an HR image of this height and width."""
        height, width = (max(round(side * self.share), 1) for side in hr_size)
        return lambda image, generator: resize_aliased(image, (height, width), self.mode)


@dataclass(frozen=True)
class NearestDownsampling:
    """Every ``stride``-th pixel, after a blur that is shifted so that the picture stays in its place.

    Attributes:
        stride: Pixels a pixel that is kept.
        sigma: Standard deviation of the blur, pixels.
    """

    stride: int
    sigma: float

    def __call__(self, image: Tensor, generator: torch.Generator) -> Tensor:
        """Downsample 3 H W; sides are rounded up."""
        # The first pixel of s that stand for one lies (s - 1) / 2 before their middle: the blur takes it there.
        radius, shift = 12, (self.stride - 1) / 2
        axis = torch.arange(-radius, radius + 1, dtype=torch.float64)
        profile = torch.exp(-0.5 * ((axis + shift) / self.sigma) ** 2)
        kernel = torch.outer(profile, profile)
        blurred = kernels.blur(image, kernel / kernel.sum())
        return blurred[:, :: self.stride, :: self.stride].clamp(0, 1)


@dataclass(frozen=True)
class GaussianNoise:
    """Gaussian noise with any covariance of the channels.

    Attributes:
        factor: A 3 x 3 matrix whose product with independent noise is the noise, levels of 1.
    """

    factor: tuple[tuple[float, float, float], ...]

    def __call__(self, image: Tensor, generator: torch.Generator) -> Tensor:
        """Add noise to 3 H W."""
        noise = torch.randn(image.shape, generator=generator)
        return (image + torch.einsum("ij,jhw->ihw", torch.tensor(self.factor), noise)).clamp(0, 1)


@dataclass(frozen=True)
class Jpeg:
    """The JPEG codec.

    Attributes:
        quality: Its quality setting.
    """

    quality: int

    def __call__(self, image: Tensor, generator: torch.Generator) -> Tensor:
        """Compress 3 H W and read it back."""
        return jpeg(image, self.quality)


Operation = Blur | Resize | NearestDownsampling | GaussianNoise | Jpeg | SensorNoise

# ---- Options --------------------------------------------------------------------------------------------

Width = Annotated[float, Field(ge=0.05, le=30)]
WidthRange = Annotated[tuple[Width, Width], AfterValidator(ordered)]


class NoiseWeights(Options):
    """How often each kind of Gaussian noise is drawn."""

    general: Weight = Field(0.2, description="The channels' noise is correlated.")
    color: Weight = Field(0.4, description="The channels' noise is independent.")
    gray: Weight = Field(0.4, description="The channels share their noise.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not sum(self.model_dump().values()):
            raise ValueError("at least one weight must be above 0")
        return self


class BSRGANDegradation(DrawnDegradation[list[Operation]]):
    """Shuffled blurs, resizes, noise, JPEG and a camera. See the module for its source."""

    class Config(Options):
        """Options of ``BSRGANDegradation``; the defaults are for a scale of 4."""

        scale: int = Field(4, ge=1, le=8, description="How many times smaller the result is.")
        kernel_sizes: SizeRange = Field((7, 21), description="Narrowest and widest kernel, pixels, odd.")
        isotropic_sigma: WidthRange = Field(
            (0.1, 2.8), description="Width of isotropic blurs, pixels; (0.1, 2.4) for x2."
        )
        anisotropic_variance: WidthRange = Field(
            (0.5, 8.0), description="Variances of anisotropic blurs along their axes, pixels^2; (0.5, 6.0) for x2."
        )
        halving_probability: Probability = Field(
            0.25, description="Chance that the image is halved before all else; for scales that are multiples of 4."
        )
        nearest_probability: Probability = Field(
            0.25, description="Chance that the first resize takes every s-th pixel instead of interpolating."
        )
        noise_kinds: NoiseWeights = Field(NoiseWeights(), description="How often each kind of noise is drawn.")
        noise_level: WeightRange = Field((1.0, 25.0), description="Gaussian noise, levels of 255.")
        jpeg_probability: Probability = Field(0.9, description="Chance of a JPEG among the shuffled operations.")
        jpeg_quality: QualityRange = Field((30, 95), description="Quality setting of both JPEGs.")
        camera_probability: Probability = Field(0.25, description="Chance of a camera's sensor noise.")

    def __init__(self, config: Config | None = None) -> None:
        self.config = config or self.Config()
        self.scale = self.config.scale

    def draw(self, generator: torch.Generator) -> list[Operation]:
        """Draw what is done to an image, in its order."""
        config, dice = self.config, Dice(generator)
        halved = self.scale % 4 == 0 and dice.chance(config.halving_probability)
        rest = self.scale // 2 if halved else self.scale
        operations: list[Operation | None] = [
            Blur(self._draw_size(dice), (sigma := dice.uniform(config.isotropic_sigma), sigma), 0.0),
            self._draw_anisotropic_blur(dice),
            self._draw_downsampling(dice, rest, halved),
            Resize(1 / self.scale, dice.pick(RESIZE_MODES)),
            self._draw_noise(dice),
            self._draw_jpeg(dice) if dice.chance(config.jpeg_probability) else None,
            draw_sensor_noise(dice) if dice.chance(config.camera_probability) else None,
        ]
        order = dice.permutation(len(operations))
        first, last = sorted((order.index(2), order.index(3)))
        order[first], order[last] = 2, 3  # the resize to the final size is the later of the two
        shuffled = [operation for i in order if (operation := operations[i]) is not None]
        before: list[Operation] = [Resize(0.5, dice.pick(("bilinear", "bicubic")))] if halved else []
        return [*before, *shuffled, self._draw_jpeg(dice)]

    @torch.no_grad()
    def apply(self, hr: Tensor, record: Sequence[Operation], generator: torch.Generator) -> Tensor:
        """Degrade one image, 3 H W, with drawn operations; the noise comes from the generator."""
        image = hr.to("cpu", torch.float32)
        for operation in record:
            act = operation.to((hr.shape[-2], hr.shape[-1])) if isinstance(operation, Resize) else operation
            image = act(image, generator).clamp(0, 1)
        return to_8_bit(image).to(hr)

    def _draw_size(self, dice: Dice) -> int:
        low, high = self.config.kernel_sizes
        return dice.pick(range(low, high + 1, 2))

    def _draw_anisotropic_blur(self, dice: Dice) -> Blur:
        # What the paper draws are the eigenvalues of the kernel's covariance: squares of widths.
        widths = [math.sqrt(dice.uniform(self.config.anisotropic_variance)) for _ in range(2)]
        return Blur(self._draw_size(dice), (widths[0], widths[1]), dice.uniform((0, math.pi)))

    def _draw_downsampling(self, dice: Dice, scale: int, halved: bool) -> Operation:
        """The first of the two resizes: past the final size, perhaps, from where the second one enlarges."""
        if dice.chance(self.config.nearest_probability):
            return NearestDownsampling(scale, dice.uniform((0.1, 0.6 * scale)))
        whole = 0.5 if halved else 1.0
        return Resize(whole / dice.uniform((1, 2 * scale)), dice.pick(RESIZE_MODES))

    def _draw_noise(self, dice: Dice) -> GaussianNoise:
        level = dice.uniform(self.config.noise_level) / 255
        weights = self.config.noise_kinds.model_dump()
        kind = dice.pick(list(weights), list(weights.values()))
        if kind == "gray":
            return GaussianNoise(((level, 0.0, 0.0),) * 3)
        if kind == "color":
            return GaussianNoise(((level, 0.0, 0.0), (0.0, level, 0.0), (0.0, 0.0, level)))
        # Rows of unit length: any correlation of the channels, at the same level in each.
        rows = torch.tensor([[dice.normal(1.0) for _ in range(3)] for _ in range(3)])
        rows = level * rows / rows.norm(dim=1, keepdim=True)
        return GaussianNoise(tuple((float(a), float(b), float(c)) for a, b, c in rows))

    def _draw_jpeg(self, dice: Dice) -> Jpeg:
        worst, best = self.config.jpeg_quality
        return Jpeg(dice.pick(range(worst, best + 1)))
