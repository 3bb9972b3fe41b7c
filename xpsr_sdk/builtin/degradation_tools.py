"""Building blocks of degradations: checks of a batch, draws from an image's generator, resizing, JPEG, rounding."""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Generic, Literal, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from xpsr_sdk.errors import ImageError

ResizeMode = Literal["area", "bilinear", "bicubic"]
RESIZE_MODES: tuple[ResizeMode, ...] = ("area", "bilinear", "bicubic")

T = TypeVar("T")
Record = TypeVar("Record")


class Dice:
    """Draws random parameters from one image's generator. The same seed gives the same parameters."""

    def __init__(self, generator: torch.Generator) -> None:
        self._generator = generator

    def uniform(self, bounds: tuple[float, float]) -> float:
        """A number between the bounds (lowest, highest)."""
        share = torch.rand((), dtype=torch.float64, generator=self._generator).item()
        return bounds[0] + (bounds[1] - bounds[0]) * share

    def normal(self, sigma: float) -> float:
        """A normally distributed number of mean 0."""
        return sigma * torch.randn((), dtype=torch.float64, generator=self._generator).item()

    def permutation(self, count: int) -> list[int]:
        """The numbers below ``count`` in random order."""
        return [int(i) for i in torch.randperm(count, generator=self._generator)]

    def chance(self, probability: float) -> bool:
        """True with that probability."""
        return self.uniform((0, 1)) < probability

    def pick(self, options: Sequence[T], weights: Sequence[float] | None = None) -> T:
        """One of the options, with a probability in proportion to its weight. By default all are equally likely."""
        chances = torch.ones(len(options)) if weights is None else torch.tensor(weights)
        return options[int(torch.multinomial(chances, 1, generator=self._generator))]


def check_image(hr: Tensor, scale: int) -> None:
    """Raise ``ImageError`` unless ``hr`` is a float image, 3 H W, with sides divisible by ``scale``."""
    if hr.ndim != 3 or hr.shape[0] != 3 or not hr.is_floating_point():
        raise ImageError(f"hr image is {_describe(hr)}; a degradation takes floats, 3 x H x W in [0, 1].")
    height, width = hr.shape[-2:]
    if not height or not width or height % scale or width % scale:
        raise ImageError(
            f"hr image is {height} x {width} pixels; both must be positive multiples of the scale, {scale}."
        )


def check_batch(hr: Tensor, generators: Sequence[torch.Generator], scale: int) -> None:
    """Raise ``ImageError`` unless ``hr`` holds at least one such image, B 3 H W, and each has its own CPU generator."""
    if hr.ndim != 4 or not len(hr):
        raise ImageError(f"hr batch is {_describe(hr)}; a degradation takes floats, B x 3 x H x W in [0, 1].")
    check_image(hr[0], scale)
    if len(generators) != len(hr):
        raise ImageError(f"{len(generators)} generators came with an hr batch of {len(hr)} images; give one an image.")
    for index, generator in enumerate(generators):
        if generator.device.type != "cpu":
            raise ImageError(f"generator {index} lives on {generator.device}; degradations draw on the CPU.")


def to_8_bit(image: Tensor) -> Tensor:
    """Clamp to [0, 1] and round to the 256 levels of an 8-bit file."""
    return (image.clamp(0, 1) * 255).round() / 255


def resize_aliased(image: Tensor, size: tuple[int, int], mode: ResizeMode) -> Tensor:
    """Resize C H W to another height and width, without antialiasing: models should learn to repair aliasing."""
    # Channels are treated as a batch: with several channels, rounding in torch's bilinear kernel depends on the number
    # of threads, and a worker process has fewer threads than the main process.
    return F.interpolate(image[:, None], size=size, mode=mode)[:, 0]


def jpeg(image: Tensor, quality: int) -> Tensor:
    """Compress 3 H W in [0, 1] as JPEG with halved chroma, and decode it again. ``quality`` is 1 to 100."""
    pixels = (to_8_bit(image) * 255).round().byte().permute(1, 2, 0).numpy()
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality, subsampling="4:2:0")
    decoded = np.array(Image.open(file))
    return torch.from_numpy(decoded).permute(2, 0, 1).float() / 255


def _describe(tensor: Tensor) -> str:
    return f"{tensor.dtype} of shape {tuple(tensor.shape)}"


class DrawnDegradation(ABC, Generic[Record]):
    """A degradation that first draws all parameters of an image as a record, and then applies them."""

    scale: int

    def __call__(self, hr: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """Degrade B 3 H W in [0, 1] to B 3 H/s W/s in 8-bit levels of [0, 1].

        The result has the device and dtype of ``hr``. Images are processed one at a time, on the CPU, in
        float32: an image's result depends on the image and its generator alone.

        Raises:
            ImageError: The shape is wrong, a side is not a multiple of s, or there is not one CPU generator per image.
        """
        check_batch(hr, generators, self.scale)
        return torch.stack([self.degrade_with_record(*pair)[0] for pair in zip(hr, generators, strict=True)])

    def degrade_with_record(self, hr: Tensor, generator: torch.Generator) -> tuple[Tensor, Record]:
        """Degrade one image, 3 H W, as in a batch. Returns the result and the drawn parameters."""
        check_image(hr, self.scale)
        record = self.draw(generator)
        return self.apply(hr, record, generator), record

    @abstractmethod
    def draw(self, generator: torch.Generator) -> Record:
        """Draw the parameters of one image."""

    @abstractmethod
    def apply(self, hr: Tensor, record: Record, generator: torch.Generator) -> Tensor:
        """Degrade one image, 3 H W, with the parameters of the record. Noise is drawn from the generator."""
