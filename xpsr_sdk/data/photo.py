"""A photo that will be restored, given in any supported form, and the images of it that prompt providers see."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from functools import partial
from os import PathLike
from pathlib import Path

from PIL import Image

from xpsr_sdk.config import RestoreConfig
from xpsr_sdk.contracts import Item, PromptLevel, Sha256
from xpsr_sdk.data.images import read_picture, sha256_of
from xpsr_sdk.data.picture import Picture, from_pil
from xpsr_sdk.errors import ConfigError, ImageError

SMALLEST_SIDE = 16
"""The smallest side of a photo, in pixels."""
LARGEST_VIEW = 2048
"""A photo with more pixels than a square of this side is not shown to prompt providers as a whole."""

Photo = str | PathLike[str] | Image.Image | Item | Picture


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

    def target_size(self, scale: float) -> tuple[int, int]:
        """Width and height of the result, in pixels.

        Raises:
            ImageError: The photo is too small to be restored.
        """
        width, height = self.picture.size
        if min(width, height) < SMALLEST_SIDE:
            raise ImageError(
                f"{self.picture.name} is {width}x{height}: photos need at least {SMALLEST_SIDE} pixels in each "
                "direction."
            )
        return round(width * scale), round(height * scale)

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


def load_photo(photo: Photo, settings: RestoreConfig) -> LoadedPhoto:
    """Load a photo from any supported form, and treat its profile and metadata as the settings say.

    Raises:
        ConfigError: ``photo`` is not a photo.
        ImageError: The file cannot be read.
    """
    origin: Path | None = None
    digest: Callable[[], str | None] | None = None
    if isinstance(photo, (str, PathLike)):
        origin = Path(photo)
        picture, digest = read_picture(origin, settings.max_megapixels), partial(sha256_of, origin)
    elif isinstance(photo, Item):
        item, origin = photo, photo.path
        picture, digest = from_pil(item.image, str(item.path or "the image")), lambda: item.sha256
    elif isinstance(photo, Image.Image):
        picture = from_pil(photo)
    elif isinstance(photo, Picture):
        picture = photo
    else:
        raise ConfigError(f"A photo is a path, a PIL image or an Item, not a {type(photo).__name__}.")
    picture = picture.in_srgb() if settings.profile == "convert" else picture
    picture = replace(picture, metadata={}) if settings.metadata == "strip" else picture
    return LoadedPhoto(picture, origin, digest)
