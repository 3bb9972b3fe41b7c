"""The visitors' files: each photo has a folder of its own under a name that nobody can guess, and leaves in time."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from xpsr_sdk.data.images import read_picture, write_picture
from xpsr_sdk.data.picture import Picture
from xpsr_sdk.errors import ImageError
from xpsr_sdk.files.leftovers import new_temporary_folder

PREFIX = "xpsr-web-"
"""How the name of the folder of all files begins."""
LOSSLESS_MEGAPIXELS = 4.0
"""Up to this size, what the page shows is a PNG file; larger pictures are JPEG files, which are sent faster."""
THUMBNAIL = 320
"""The longer side of a thumbnail, in pixels."""
LONGEST_NAME = 100
"""Characters of a file's name that are kept."""


@dataclass(frozen=True)
class StoredPhoto:
    """A photo of a visitor.

    Attributes:
        id: Its name in addresses.
        visitor: Whose it is.
        name: What the visitor calls the file, with folders before it if it came in one.
        file: Where it is.
        size: Width and height, upright.
        has_alpha: Whether it has transparency.
    """

    id: str
    visitor: str
    name: str
    file: Path
    size: tuple[int, int]
    has_alpha: bool

    @property
    def folder(self) -> Path:
        """What belongs to the photo, and leaves with it."""
        return self.file.parent

    def about(self) -> dict[str, Any]:
        """What the page is told."""
        width, height = self.size
        return {"id": self.id, "name": self.name, "width": width, "height": height, "has_alpha": self.has_alpha}


@dataclass
class Storage:
    """The folder of all files.

    Attributes:
        most_bytes: What all files may take together.
        root: The folder.
    """

    most_bytes: float
    root: Path = field(init=False)

    def __post_init__(self) -> None:
        self.root = new_temporary_folder(PREFIX)

    def close(self) -> None:
        """Delete everything."""
        shutil.rmtree(self.root, ignore_errors=True)

    def new_folder(self) -> Path:
        """A new folder."""
        folder = self.root / secrets.token_hex(16)
        folder.mkdir()
        return folder

    def folder_for_photo(self) -> Path:
        """A new folder for a photo.

        Raises:
            ImageError: The space is used up.
        """
        if self.used() > self.most_bytes:
            raise ImageError("The space of the server is used up: try again later, when older photos are deleted.")
        return self.new_folder()

    def used(self) -> int:
        """Bytes of all files. Others may be deleting some of them."""
        total = 0
        for folder, _, files in os.walk(self.root):
            for name in files:
                with suppress(OSError):
                    total += os.stat(os.path.join(folder, name)).st_size
        return total


@contextmanager
def named_as(file: Path, name: str) -> Iterator[None]:
    """Within the block, errors call a file of the server as the visitor does."""
    try:
        yield
    except ImageError as error:
        raise ImageError(str(error).replace(str(file), name)) from None


def opened_photo(file: Path, name: str, visitor: str, max_megapixels: float) -> StoredPhoto:
    """A photo that was uploaded, after a look at its header.

    Raises:
        ImageError: It is no still image of at most that size.
    """
    with named_as(file, name):
        picture = read_picture(file, max_megapixels)
    return StoredPhoto(secrets.token_hex(16), visitor, name, file, picture.size, picture.has_alpha)


def shown_name(name: str) -> str:
    """A file's name as it is shown and written into ZIP files: no part leads out of a folder, and none is hidden."""
    printable = "".join(letter for letter in name if letter.isprintable())
    parts = [part.strip(". ") for part in printable.replace("\\", "/").split("/")]
    kept = "/".join(part for part in parts if part and ":" not in part)
    return kept[-LONGEST_NAME:].lstrip("/. ") or "photo"


def write_for_page(picture: Picture, folder: Path, name: str) -> Path:
    """The picture as browsers can show it: in 8 bits of sRGB, without metadata. It is written once."""
    width, height = picture.size
    is_small = width * height <= LOSSLESS_MEGAPIXELS * 1e6 or picture.has_alpha
    file = folder / f"{name}.{'png' if is_small else 'jpg'}"
    if not file.exists():
        write_picture(replace(picture.in_srgb().without_metadata(), dpi=None), file)
    return file


def write_thumbnail(picture: Picture, folder: Path, name: str) -> Path:
    """A small JPEG file of the picture. It is written once."""
    file = folder / f"{name}.jpg"
    if not file.exists():
        small = picture.shrunk(THUMBNAIL).in_srgb().without_metadata()
        flat = small.pixels.flatten(background=[small.max_level]) if small.has_alpha else small.pixels
        write_picture(replace(small, pixels=flat, dpi=None), file, 85)
    return file
