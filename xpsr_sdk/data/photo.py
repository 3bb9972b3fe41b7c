"""A photo that will be restored, given in any supported form, and the images of it that prompt providers see."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from os import PathLike
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps
from torch import Tensor

from xpsr_sdk.config import DEFAULT_SCALE, RestoreConfig
from xpsr_sdk.contracts import Item, PromptLevel, Sha256
from xpsr_sdk.data.decoding import decoding
from xpsr_sdk.data.images import picture_in, read_picture, sha256_of
from xpsr_sdk.data.picture import Picture, from_levels, from_pil
from xpsr_sdk.errors import ConfigError, ImageError
from xpsr_sdk.files.remote import place

SMALLEST_SIDE = 16
"""The smallest side of a photo, in pixels."""
LARGEST_SCALE = 8
"""How many times larger than the photo a result of a given size may be, in each direction."""
LARGEST_VIEW = 2048
"""A photo with more pixels than a square of this side is not shown to prompt providers as a whole."""

Photo = str | PathLike[str] | Image.Image | Item | Picture | bytes | BinaryIO | np.ndarray | Tensor
"""A photo in any supported form: a path; a PIL image; an item; a picture; the bytes of an image file, or a file object
that is open for reading in binary mode; an array, H W or H W C, or a tensor, H W or C H W, of uint8, uint16 or floats
from 0 to 1.
"""


@dataclass(frozen=True)
class LoadedPhoto:
    """A photo whose header has been read.

    Attributes:
        picture: The picture. Its pixels may be decoded later.
        path: The file, if there is one.
        sha256: Hex digest of the file's bytes, if there is a file. It is computed when it is first read.
    """

    picture: Picture
    path: Path | None = None
    sha256: Sha256 = Sha256()  # noqa: RUF009  (a descriptor)

    def target_size(self, settings: RestoreConfig) -> tuple[int, int]:
        """Width and height of the result, in pixels: the photo's own, times the same factor.

        Raises:
            ImageError: The photo or the result is too small, or the result is too large for the photo.
        """
        width, height = self.picture.size
        if min(width, height) < SMALLEST_SIDE:
            raise ImageError(
                f"{self.picture.name} is {width}x{height}: photos need at least {SMALLEST_SIDE} pixels in each "
                "direction."
            )
        factor = _factor(width, height, settings)
        target = round(width * factor), round(height * factor)
        if factor > LARGEST_SCALE:
            raise ImageError(
                f"{self.picture.name} is {width}x{height}: {target[0]}x{target[1]} would be {factor:.1f} times as "
                f"large, and {LARGEST_SCALE} times is the most."
            )
        if min(target) < SMALLEST_SIDE:
            raise ImageError(
                f"{self.picture.name} is {width}x{height}, and its result would be {target[0]}x{target[1]}: it needs "
                f"at least {SMALLEST_SIDE} pixels in each direction."
            )
        return target

    def views(self, levels: Collection[PromptLevel]) -> Iterator[tuple[list[PromptLevel], Item]]:
        """The images that a prompt provider sees for the levels.

        This is the whole photo. If the photo is too large, it is a small copy for the content, and the middle in full
        resolution for the quality.
        """
        width, height = self.picture.size
        if width * height <= LARGEST_VIEW**2:
            if levels:
                yield list(levels), self._item(self.picture)
            return
        if "high" in levels:
            yield ["high"], self._item(self.picture.shrunk(LARGEST_VIEW))
        if "low" in levels:
            across, down = min(width, LARGEST_VIEW), min(height, LARGEST_VIEW)
            middle = self.picture.cropped((width - across) // 2, (height - down) // 2, across, down)
            yield ["low"], self._item(middle)

    def _item(self, view: Picture) -> Item:
        return Item(view.to_rgb(), self.path, lambda: self.sha256)


def _factor(width: int, height: int, settings: RestoreConfig) -> float:
    """How many times larger the result of a photo is, in each direction; less than 1 if it is smaller."""
    if settings.megapixels:
        return math.sqrt(settings.megapixels * 1e6 / (width * height))
    if settings.max_side:
        return settings.max_side / max(width, height)
    factors = [wanted / own for wanted, own in ((settings.width, width), (settings.height, height)) if wanted]
    return min(factors, default=settings.scale or DEFAULT_SCALE)


def load_photo(photo: Photo, settings: RestoreConfig) -> LoadedPhoto:
    """Load a photo from any supported form, and treat its profile and metadata as the settings say.

    Raises:
        ConfigError: ``photo`` is not a photo.
        ImageError: The file cannot be read.
    """
    origin: Path | None = None
    digest: Callable[[], str | None] | None = None
    if isinstance(photo, (str, PathLike)):
        origin = place(os.path.expanduser(photo))
        picture, digest = read_picture(origin, settings.max_megapixels), partial(sha256_of, origin)
    elif isinstance(photo, Item):
        item, origin = photo, photo.path
        picture, digest = from_pil(item.image, str(item.path or "the image")), lambda: item.sha256
    elif isinstance(photo, Image.Image):
        with decoding("the image"):  # which Pillow may only read now
            picture = from_pil(ImageOps.exif_transpose(photo))  # upright, as photos that are read from files
    elif isinstance(photo, np.ndarray):
        picture = from_levels(photo)
    elif isinstance(photo, Tensor):
        picture = _from_tensor(photo)
    elif isinstance(photo, Picture):
        picture = photo
    else:
        content = photo if isinstance(photo, bytes) else _content(photo)
        picture = picture_in(content, settings.max_megapixels)
        digest = lambda: hashlib.sha256(content).hexdigest()  # noqa: E731
    picture = picture.in_srgb() if settings.profile == "convert" else picture
    picture = replace(picture, metadata={}) if settings.metadata == "strip" else picture
    return LoadedPhoto(picture, origin, digest)


def is_photo(given: object) -> bool:
    """Whether this is one photo, and no list of them."""
    kinds = (str, PathLike, Image.Image, Item, Picture, bytes, np.ndarray, Tensor)
    return isinstance(given, kinds) or hasattr(given, "read") or not isinstance(given, Iterable)


def _content(file: object) -> bytes:
    """What can be read from a file object."""
    try:
        content = file.read() if hasattr(file, "read") else None
    except UnicodeDecodeError:  # it is open in text mode
        content = None
    except (OSError, ValueError) as error:  # ValueError: it is closed
        raise ImageError(f"The photo cannot be read from the file object: {error}.") from error
    if not isinstance(content, bytes):
        raise ConfigError(
            "A photo is a path, a PIL image, an item, a picture, an array, a tensor, the bytes of an image file, or a "
            f"file object that is open in binary mode, not a {type(file).__name__}."
        )
    return content


def _from_tensor(tensor: Tensor) -> Picture:
    """H W, C H W or 1 C H W."""
    levels = tensor.detach().cpu()
    levels = levels.float() if levels.is_floating_point() else levels
    levels = levels[0] if levels.ndim == 4 and len(levels) == 1 else levels
    return from_levels((levels.permute(1, 2, 0) if levels.ndim == 3 else levels).numpy(), "the tensor")
