"""What a training step reads: crops of images, each with the input that it is restored from and the prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from xpsr_sdk.contracts import PromptLevel
from xpsr_sdk.data.images import resize
from xpsr_sdk.errors import TrainingError

Pixels = NDArray[np.uint8]
"""An image in 8 bits, H W 3."""
ReadPixels = Callable[[Path], Pixels]
FindPrompt = Callable[[Path, PromptLevel], str | None]
"""Finds the stored prompt of an image file at a level; None: there is none."""
Upscale = Callable[[Tensor, int, int], Tensor]
"""``upscale(image, height, width)``: B 3 h w in [0, 1] to B 3 height width."""


@dataclass(frozen=True)
class Pair:
    """The images of a sample that is written.

    Attributes:
        hr: The sharp photo.
        lr: The same, degraded; None: it is degraded as training draws it.
        upscaled: The degraded photo as an upscaler enlarges it; None: it is enlarged as training draws it.
    """

    hr: Image.Image
    lr: Image.Image | None
    upscaled: Image.Image | None


@dataclass(frozen=True)
class Example:
    """An image of a source, whole.

    Attributes:
        hr: H W 3, in 8 bits.
        lr: H/s W/s 3, or the HR image itself; None: to be degraded.
        upscaled: H W 3, the input as the model's upscaler enlarged it ahead of time to the size of the HR image; None:
            it was not enlarged ahead of time.
        high: What it shows.
        low: How good the input is; None: to be described once it is degraded.
        name: For messages.
    """

    hr: Pixels
    lr: Pixels | None
    high: str
    low: str | None
    name: str
    upscaled: Pixels | None = None


class DamagedImage(TrainingError):
    """An image of a source cannot be read, though its neighbours may be."""


class Source(Protocol):
    """Where images come from: a folder of pairs, of shards or of photos."""

    def __len__(self) -> int: ...

    def example(self, index: int, hr_as_input: bool) -> Example:
        """An image, with the HR image itself as the input if that is asked for.

        Raises:
            DamagedImage: It cannot be read.
        """
        ...


class Degrader(Protocol):
    """Makes the input of a photo that has none, and tells how good it is."""

    def degrade(self, hr: Tensor, generator: torch.Generator) -> Tensor:
        """1 3 H W in [0, 1] to 1 3 H/s W/s."""
        ...

    def quality(self, image: Tensor) -> str:
        """The low-level prompt of 1 3 H W in [0, 1]."""
        ...


@dataclass(frozen=True)
class Sample:
    """A crop.

    Attributes:
        hr: 3 H W in [-1, 1].
        resized: The input, resized to the HR size (bicubic), 3 H W in [0, 1].
        upscaled: The input as the model's upscaler enlarges it, 3 H W in [0, 1].
        high: What the image shows.
        low: How good the input is.
    """

    hr: Tensor
    resized: Tensor
    upscaled: Tensor
    high: str
    low: str


@dataclass(frozen=True)
class Batch:
    """What a forward pass reads.

    Attributes:
        hr: B 3 H W in [-1, 1].
        resized: The inputs, resized to the HR size (bicubic), B 3 H W in [0, 1].
        upscaled: The inputs as the model's upscaler enlarges them, B 3 H W in [0, 1].
        high: Content of each image.
        low: Quality of each input.
        positions: The place of each in the run: step * batch size + place in the step's batch.
    """

    hr: Tensor
    resized: Tensor
    upscaled: Tensor
    high: list[str]
    low: list[str]
    positions: list[int]


def collate(samples: Sequence[Sample], positions: Sequence[int]) -> Batch:
    """A batch of samples of one size."""
    return Batch(
        hr=torch.stack([sample.hr for sample in samples]),
        resized=torch.stack([sample.resized for sample in samples]),
        upscaled=torch.stack([sample.upscaled for sample in samples]),
        high=[sample.high for sample in samples],
        low=[sample.low for sample in samples],
        positions=list(positions),
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
    """A crop of an image, flipped or not, as ``generator`` says.

    Args:
        source: Where the image is.
        index: Which one.
        crop: Side of the crop, in pixels; a multiple of the scale.
        hr_as_input: How probable it is that the input is the HR image itself.
        degrader: For images without an input.
        upscale: The model's upscaler, for inputs that were not enlarged ahead.
        generator: The only source of chance.

    Raises:
        DamagedImage: The image cannot be read.
        TrainingError: Its size does not fit.
    """
    from_hr = float(torch.rand((), generator=generator)) < hr_as_input
    example = source.example(index, from_hr)
    hr, lr, upscaled = _aligned_crops(example, crop, generator)
    if torch.rand((), generator=generator) < 0.5:
        hr, lr = hr.flip(-1), lr.flip(-1)
        upscaled = None if upscaled is None else upscaled.flip(-1)
    if example.lr is None and not from_hr:
        lr = degrader.degrade(hr, generator)
    low = degrader.quality(lr) if example.low is None else example.low
    resized = resize(lr, crop, crop).clamp(0, 1)
    if upscaled is None:  # an input that is as large as the target needs no upscaler
        upscaled = resized if lr.shape == hr.shape else upscale(lr, crop, crop)
    return Sample(hr[0] * 2 - 1, resized[0], upscaled[0], example.high, low)


def _aligned_crops(example: Example, crop: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor | None]:
    """The same place of HR, LR and enlarged LR, 1 3 H W in [0, 1]; an example without LR gives its HR twice."""
    hr = example.hr
    lr = hr if example.lr is None else example.lr
    scale = max(hr.shape[0] // lr.shape[0], 1)
    side = crop // scale
    if min(lr.shape[:2]) < side or hr.shape[0] != lr.shape[0] * scale or hr.shape[1] != lr.shape[1] * scale:
        raise TrainingError(
            f"{example.name}: HR is {hr.shape[1]}x{hr.shape[0]} and LR {lr.shape[1]}x{lr.shape[0]}; HR must be a whole"
            f" number of times as large as LR, and at least {crop} pixels in each direction."
        )
    if example.upscaled is not None and example.upscaled.shape != hr.shape:
        found = f"{example.upscaled.shape[1]}x{example.upscaled.shape[0]}"
        raise TrainingError(f"{example.name}: its upscaled image is {found}; it must be as large as HR.")
    if crop % scale:
        raise TrainingError(f"crop is {crop}: it must be a multiple of the scale, which is {scale} for {example.name}.")
    top, left = (int(torch.randint(size - side + 1, (), generator=generator)) for size in lr.shape[:2])

    def cropped(image: Pixels, times: int) -> Tensor:
        return _tensor(image[top * times :, left * times :][: side * times, : side * times])

    upscaled = None if example.upscaled is None else cropped(example.upscaled, scale)
    return cropped(hr, scale), cropped(lr, 1), upscaled


def _tensor(pixels: Pixels) -> Tensor:
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255
