"""What the pipeline gives back: the restored photo, and how it was made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from os import PathLike
from pathlib import Path

from PIL import Image

from xpsr_sdk.config import ExecutionConfig
from xpsr_sdk.contracts import Prompts
from xpsr_sdk.data.images import write_picture
from xpsr_sdk.data.picture import Picture
from xpsr_sdk.resolved import ResolvedSettings


@dataclass(frozen=True)
class Plan:
    """How a photo was restored. The same pipeline, settings and seed give the same bits on the same machine.

    Model, sampler and prompt provider are those of the pipeline; the seed and the prompts are in the ``Result``.

    Attributes:
        settings: The settings of the call with all defaults filled in, and how much was computed at once.
        start_timestep: Training timestep at which sampling began; -1: there was no sampling, and the initial latents
            were decoded.
        regions: Number of regions.
        tiles: Number of tiles in all regions together.
        device: Device that the photo was restored on.
        dtype: Precision that was used.
        execution: How the networks were executed.
        images: The most photos that went through the networks together.
    """

    settings: ResolvedSettings
    start_timestep: int
    regions: int
    tiles: int
    device: str
    dtype: str
    execution: ExecutionConfig
    images: int


@dataclass(frozen=True)
class Result:
    """A restored photo.

    Attributes:
        picture: Exactly ``scale`` times the input's size, with the input's channels, bit depth, profile and metadata.
        prompts: The descriptions of the photo, without added words, and who gave them.
        seed: The seed of the noise.
        plan: How the photo was restored.
        timings: Seconds that each stage took, and their ``total``.
        path: The file that the input came from, if there was one.
    """

    picture: Picture
    prompts: Prompts
    seed: int
    plan: Plan
    timings: Mapping[str, float] = field(default_factory=dict)
    path: Path | None = None

    @cached_property
    def image(self) -> Image.Image:
        """The picture in 8 bits, in mode RGB, RGBA, L or LA as the input had them."""
        return self.picture.to_pil()

    def save(self, path: str | PathLike[str]) -> None:
        """Write the picture. The suffix sets the file type, and a failure leaves no partial file.

        Raises:
            ImageError: The suffix is not supported, or the file cannot be written.
        """
        write_picture(self.picture, Path(path))
