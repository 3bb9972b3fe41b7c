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

    Model, sampler and prompt provider are those of the pipeline; seed and prompts stand in the result.

    Attributes:
        settings: Those of the call, with the pipeline's and the model's filled in, and how much was computed at once.
        start_timestep: Where sampling began; -1: not at all, the start itself was decoded.
        regions: How many regions.
        tiles: How many tiles, in all regions.
        device: Where it ran.
        dtype: In which precision.
        execution: How the networks were executed.
        images: How many photos went through them together, at most.
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
        prompts: What the photo was described as, without added words, and by whom.
        seed: Of the noise.
        plan: How it was made.
        timings: Seconds of each stage, and ``total``.
        path: Where the input came from, if from a file.
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
        """Write the picture, whole or not at all; the suffix says the type.

        Raises:
            ImageError: The suffix is not supported, or the place cannot be written to.
        """
        write_picture(self.picture, Path(path))
