"""What the pipeline gives back: the restored photo, and how it was made."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from io import BytesIO
from os import PathLike
from pathlib import Path
from typing import IO

from PIL import Image

from xpsr_sdk.config import ExecutionConfig
from xpsr_sdk.contracts import Prompts
from xpsr_sdk.data.images import check_fits, file_type, write_picture
from xpsr_sdk.data.picture import Picture
from xpsr_sdk.data.writing import save_picture
from xpsr_sdk.errors import ImageError
from xpsr_sdk.files.remote import place
from xpsr_sdk.resolved import ResolvedSettings

LARGEST_PREVIEW = 1024
"""Longer side of the picture that Jupyter shows, in pixels."""


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
        picture: As large as the settings say, with the input's channels, bit depth, profile, resolution and metadata.
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

    def save(
        self, file: str | PathLike[str] | IO[bytes], format: str | None = None, quality: int | None = None
    ) -> None:
        """Write the picture to a file, whole or not at all, or to a file object.

        Args:
            file: A path, or a file object that is open for writing in binary mode.
            format: Type of the file, for instance ``"JPEG"``. None: the suffix of the path says it.
            quality: Quality of JPEG, WebP and AVIF files, from 1 to 100. None: 95, and 90 for AVIF.

        Raises:
            ImageError: The type is not supported, or the file cannot be written.
        """
        if isinstance(file, (str, PathLike)):
            write_picture(self.picture, place(os.path.expanduser(file)), quality, format)
        else:
            where = Path(str(getattr(file, "name", "the file object")))
            if format is None and not where.suffix:
                raise ImageError('A file object has no name that says the type: give format, such as format="png".')
            check_fits(where, *self.picture.size, format)
            save_picture(self.picture, file, file_type(where, format), quality, str(where))

    def _repr_png_(self) -> bytes:
        """What Jupyter shows: the picture, no larger than ``LARGEST_PREVIEW``."""
        preview = replace(self.picture.shrunk(LARGEST_PREVIEW), metadata={})
        save_picture(preview, file := BytesIO(), ".png")
        return file.getvalue()
