"""The samples of a training step: crops of HR images, with their LR images and prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from PIL import Image
from torch import Tensor

from xpsr_sdk.contracts import PromptLevel, Prompts
from xpsr_sdk.data.images import resize, to_tensor
from xpsr_sdk.data.picture import Picture
from xpsr_sdk.errors import ImageError, NonFiniteResult, PluginError, TrainingError

ReadPicture = Callable[[Path], Picture]
FindPrompt = Callable[[Path, PromptLevel], str | None]
"""Finds the stored prompt of an image file at a level. None: there is none."""
Upscale = Callable[[Tensor, int, int], Tensor]
"""``upscale(image, height, width)``: B 3 h w in [0, 1] to B 3 height width."""


@dataclass(frozen=True)
class Pair:
    """The images of a sample that will be written.

    Attributes:
        hr: The sharp photo.
        lr: The degraded photo. None: it is degraded during training.
        upscaled: The degraded photo, enlarged by an upscaler. None: it is enlarged during training.
    """

    hr: Image.Image
    lr: Image.Image | None
    upscaled: Image.Image | None


@dataclass(frozen=True)
class Example:
    """A whole image of a source. Its pixels are decoded when a crop of it is drawn.

    Attributes:
        hr: The HR image.
        lr: The LR image, s times smaller, or the HR image itself. None: it must be degraded.
        upscaled: The LR image, enlarged in advance by the model's upscaler to the size of HR. None: it must be
            enlarged.
        high: The high-level prompt.
        low: The low-level prompt. None: the LR image must be described after it is degraded.
        name: The name for messages.
    """

    hr: Picture
    lr: Picture | None
    high: str
    low: str | None
    name: str
    upscaled: Picture | None = None


class DamagedImage(TrainingError):
    """An image of a source cannot be used. Others may be fine."""


class Source(Protocol):
    """Where images come from: a folder of pairs, of shards or of photos."""

    def __len__(self) -> int: ...

    def example(self, index: int, hr_as_input: bool) -> Example:
        """An image of the source. ``hr_as_input`` makes the HR image its own LR image.

        Raises:
            DamagedImage: It cannot be read.
        """
        ...


class Degrader(Protocol):
    """Makes the LR image of a photo that has none, and describes its quality."""

    def degrade(self, hr: Tensor, generator: torch.Generator) -> Tensor:
        """Degrade an image, 1 3 H W in [0, 1]. Returns 1 3 H/s W/s."""
        ...

    def quality(self, image: Tensor) -> Prompts:
        """The low-level prompt of an image, 1 3 H W in [0, 1], or why there is none."""
        ...


@dataclass(frozen=True)
class Sample:
    """A crop of an image.

    Attributes:
        hr: The HR image, 3 H W in [-1, 1].
        resized: The LR image, resized to the HR size (bicubic), 3 H W in [0, 1].
        upscaled: The LR image, enlarged by the model's upscaler, 3 H W in [0, 1].
        high: The high-level prompt.
        low: The low-level prompt.
        unprompted: Why there is no low-level prompt, if the provider failed.
        replaced: How many images before it could not be used.
    """

    hr: Tensor
    resized: Tensor
    upscaled: Tensor
    high: str
    low: str
    unprompted: str = ""
    replaced: int = 0


@dataclass(frozen=True)
class Batch:
    """The inputs of a forward pass.

    Attributes:
        hr: The HR images, B 3 H W in [-1, 1].
        resized: The LR images, resized to the HR size (bicubic), B 3 H W in [0, 1].
        upscaled: The LR images, enlarged by the model's upscaler, B 3 H W in [0, 1].
        high: The high-level prompts.
        low: The low-level prompts.
        positions: The position of each image in the run: step * batch size + index in the batch of the step.
        unprompted: Of images that have no low-level prompt because the provider failed, the reasons.
        replaced: How many images could not be used, so that the next ones took their places.
    """

    hr: Tensor
    resized: Tensor
    upscaled: Tensor
    high: list[str]
    low: list[str]
    positions: list[int]
    unprompted: list[str] = field(default_factory=list)
    replaced: int = 0


def collate(samples: Sequence[Sample], positions: Sequence[int]) -> Batch:
    """Make a batch of samples of one size."""
    return Batch(
        hr=torch.stack([sample.hr for sample in samples]),
        resized=torch.stack([sample.resized for sample in samples]),
        upscaled=torch.stack([sample.upscaled for sample in samples]),
        high=[sample.high for sample in samples],
        low=[sample.low for sample in samples],
        positions=list(positions),
        unprompted=[sample.unprompted for sample in samples if sample.unprompted],
        replaced=sum(sample.replaced for sample in samples),
    )


def draw_sample(
    source: Source,
    index: int,
    crop: int,
    hr_as_input: float,
    degrader: Degrader,
    upscale: Upscale,
    generator: torch.Generator,
) -> Sample:
    """Draw a random crop of an image, which may be flipped.

    Args:
        source: The source of the image.
        index: The index of the image in the source.
        crop: Side of the crop, in pixels; a multiple of the scale.
        hr_as_input: The probability that the HR image is its own LR image.
        degrader: Makes LR images that are missing.
        upscale: The model's upscaler, for LR images that were not enlarged in advance.
        generator: The source of all random numbers.

    Raises:
        DamagedImage: The image cannot be read or degraded, or its size does not fit.
        TrainingError: The crop does not fit the scale.
    """
    from_hr = float(torch.rand((), generator=generator)) < hr_as_input
    example = source.example(index, from_hr)
    hr, lr, upscaled = _aligned_crops(example, crop, generator)
    if torch.rand((), generator=generator) < 0.5:
        hr, lr = hr.flip(-1), lr.flip(-1)
        upscaled = None if upscaled is None else upscaled.flip(-1)
    if example.lr is None and not from_hr:
        try:
            lr = degrader.degrade(hr, generator)
        except (PluginError, NonFiniteResult) as error:
            raise DamagedImage(f"{example.name}: {error}") from error
    said = degrader.quality(lr) if example.low is None else Prompts(low=example.low)
    resized = resize(lr, crop, crop).clamp(0, 1)
    if upscaled is None:  # an LR image that is as large as HR needs no upscaler
        upscaled = resized if lr.shape == hr.shape else upscale(lr, crop, crop)
    return Sample(hr[0] * 2 - 1, resized[0], upscaled[0], example.high, said.low or "", said.errors.get("low", ""))


def crop_of(picture: Picture, left: int, top: int, width: int, height: int) -> Image.Image:
    """A rectangle of an image of a source, in 8 bits of sRGB.

    Raises:
        DamagedImage: It cannot be decoded.
    """
    try:
        return picture.cropped(left, top, width, height).to_rgb()
    except ImageError as error:
        raise DamagedImage(str(error)) from error


def scale_of(example: Example, least: int = 1) -> int:
    """How many times larger HR is than LR, in each direction; 1 if there is no LR.

    Raises:
        DamagedImage: It is no whole number, or a side of HR has fewer than ``least`` pixels.
    """
    width, height = example.hr.size
    lr_width, lr_height = (example.lr or example.hr).size
    scale = max(height // lr_height, 1)
    if min(width, height) < least or (width, height) != (lr_width * scale, lr_height * scale):
        raise DamagedImage(
            f"{example.name}: HR is {width}x{height} and LR {lr_width}x{lr_height}; HR must be a whole number of times"
            f" as large as LR{f', and at least {least} pixels in each direction' if least > 1 else ''}."
        )
    return scale


def _aligned_crops(example: Example, crop: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor | None]:
    """Crops of HR, LR and enlarged LR at the same place, 1 3 H W in [0, 1]. If there is no LR, HR is returned twice."""
    hr = example.hr
    lr = hr if example.lr is None else example.lr
    scale = scale_of(example, crop)
    side = crop // scale
    if example.upscaled is not None and example.upscaled.size != hr.size:
        found = "{}x{}".format(*example.upscaled.size)
        raise DamagedImage(f"{example.name}: its upscaled image is {found}; it must be as large as HR.")
    if crop % scale:
        raise TrainingError(f"crop is {crop}: it must be a multiple of the scale, which is {scale} for {example.name}.")
    top, left = (int(torch.randint(size - side + 1, (), generator=generator)) for size in reversed(lr.size))

    def cropped(image: Picture, times: int) -> Tensor:
        return to_tensor(crop_of(image, left * times, top * times, side * times, side * times))

    upscaled = None if example.upscaled is None else cropped(example.upscaled, scale)
    return cropped(hr, scale), cropped(lr, 1), upscaled
