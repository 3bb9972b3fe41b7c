"""A still image with everything that a file may hold: gray or colour, 8 or 16 bits, alpha, profile, metadata."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from io import BytesIO
from typing import Any

import numpy as np
import pyvips
from PIL import Image

from xpsr_sdk.data.color_profiles import PROFILE, is_usable, profile_of, to_srgb, without_profile
from xpsr_sdk.errors import ImageError

METADATA = ("exif", "xmp", "iptc", "photoshop")
"""Prefixes of the fields of a vips image that hold metadata. The colour profile is treated separately."""


@dataclass(frozen=True, eq=False)
class Picture:
    """A still image, upright. Pixels are decoded when they are needed, and may lie in a file.

    Attributes:
        pixels: H W C of 8 or 16 bits. C is 1: gray, 2: gray and alpha, 3: RGB, 4: RGB and alpha (not premultiplied).
        name: The name for messages.
        profile: ICC profile of the colours. None: sRGB.
        metadata: Metadata fields under libvips' names, each with its type and value.
        keeps_alive: An object that must exist as long as the pixels, such as the folder of a temporary file.
    """

    pixels: pyvips.Image
    name: str = "the image"
    profile: bytes | None = None
    metadata: Mapping[str, tuple[int, Any]] = field(default_factory=dict)
    keeps_alive: object = None

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.pixels.width, self.pixels.height

    @property
    def max_level(self) -> int:
        """The highest level: 255 or 65535."""
        return 65535 if self.pixels.format == "ushort" else 255

    @property
    def is_gray(self) -> bool:
        """Whether there is only one channel, not counting alpha."""
        return self.pixels.bands < 3

    @property
    def has_alpha(self) -> bool:
        """Whether the last channel is alpha."""
        return self.pixels.bands in (2, 4)

    def window(self, left: int, top: int, width: int, height: int) -> np.ndarray:
        """The pixels of a rectangle, H W C, uint8 or uint16.

        Raises:
            ImageError: The file is damaged.
        """
        try:
            return np.asarray(self.pixels.crop(left, top, width, height).numpy()).reshape(height, width, -1)
        except pyvips.Error as error:
            raise ImageError(f"{self.name} is damaged: {reason(error)}.") from None

    def cropped(self, left: int, top: int, width: int, height: int) -> Picture:
        """A rectangle of the picture."""
        return replace(self, pixels=self.pixels.crop(left, top, width, height))

    def shrunk(self, side: int) -> Picture:
        """The picture, made smaller if a side is longer than ``side``."""
        factor = side / max(self.size)
        return self if factor >= 1 else replace(self, pixels=self.pixels.resize(factor))

    def in_srgb(self) -> Picture:
        """The picture in sRGB, without a profile. Colours outside of sRGB are clipped."""
        if not self.profile:
            return self
        color = (self.pixels[: self.pixels.bands - 1] if self.has_alpha else self.pixels).copy()
        color.set_type(pyvips.GValue.blob_type, PROFILE, self.profile)
        color = to_srgb(color)
        return picture_of(color.bandjoin(self.pixels[-1]) if self.has_alpha else color, replace(self, profile=None))

    def to_pil(self) -> Image.Image:
        """A PIL image in 8 bits, in mode L, LA, RGB or RGBA, with the profile in its ``info``."""
        image = _pil(_in_8_bits(self.window(0, 0, *self.size)))
        if self.profile:
            image.info["icc_profile"] = self.profile
        return image

    def to_rgb(self) -> Image.Image:
        """A PIL image in 8 bits of sRGB, in mode RGB. Transparent parts are put on white."""
        image = _pil(_in_8_bits(self.in_srgb().window(0, 0, *self.size)))
        if not self.has_alpha:
            return image.convert("RGB")
        layered = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layered.size, "white"), layered).convert("RGB")


def picture_of(pixels: np.ndarray | pyvips.Image, like: Picture | None = None) -> Picture:
    """A picture of pixels, H W C of 8 or 16 bits, with the name, profile and metadata of another picture."""
    image = pixels if isinstance(pixels, pyvips.Image) else pyvips.Image.new_from_array(np.ascontiguousarray(pixels))
    deep, gray = image.format == "ushort", image.bands < 3
    image = image.copy(interpretation=("grey16" if deep else "b-w") if gray else ("rgb16" if deep else "srgb"))
    return replace(like, pixels=image) if like else Picture(image)


def from_pil(image: Image.Image, name: str = "the image") -> Picture:
    """A picture of a PIL image in any mode except F, with the profile and the metadata in its ``info``.

    Raises:
        ImageError: The levels are floats, for which the level of white is not defined.
    """
    if image.mode == "F":
        raise ImageError(f"{name} holds floating-point levels: save it with 8 or 16 bits a channel.")
    if image.mode == "I" or image.mode.startswith("I;16"):
        pixels = np.asarray(image).astype(np.int64).clip(0, 65535).astype(np.uint16)
    elif image.mode == "CMYK":
        pixels = np.asarray(image)
    else:
        pixels = np.asarray(image.convert(_plain_mode(image)))
    return from_array(
        pixels, {str(key): value for key, value in image.info.items()}, name, is_cmyk=image.mode == "CMYK"
    )


def from_array(pixels: np.ndarray, info: Mapping[str, Any], name: str, is_cmyk: bool = False) -> Picture:
    """A picture of pixels, H W or H W C of 8 or 16 bits. ``info`` is that of a PIL image: profile and metadata."""
    carrier = _carrier(info)
    color = pyvips.Image.new_from_array(np.ascontiguousarray(pixels.reshape(*pixels.shape[:2], -1)))
    color = color.copy(interpretation="cmyk") if is_cmyk else picture_of(color).pixels
    if profile := profile_of(carrier):
        color.set_type(pyvips.GValue.blob_type, PROFILE, profile)
    return from_vips(color, name, metadata_of(carrier))


def from_vips(image: pyvips.Image, name: str, metadata: Mapping[str, tuple[int, Any]]) -> Picture:
    """A picture of a vips image. CMYK is converted to sRGB, and a profile that does not fit the channels is left out.

    Raises:
        ImageError: The levels do not have 8 or 16 bits, or there are other channels than colours and alpha.
    """
    if image.interpretation in ("lab", "labs", "labq"):
        image = image.colourspace("srgb")
    if image.format not in ("uchar", "ushort"):
        raise ImageError(f"{name} holds levels of type {image.format}: save it with 8 or 16 bits a channel.")
    inks = image.interpretation == "cmyk"
    if image.bands > (5 if inks else 4):
        raise ImageError(f"{name} has {image.bands} channels: gray or colour with or without alpha is restored.")
    alpha = image[-1] if image.bands in ((5,) if inks else (2, 4)) else None
    color = image if alpha is None else image[: image.bands - 1]
    profile = profile_of(image)
    if inks:
        color, profile = to_srgb(color), None
    elif profile and not is_usable(profile, color.bands):
        profile = None
    whole = without_profile(color if alpha is None else color.bandjoin(alpha))
    return picture_of(whole, like=Picture(whole, name, profile, metadata))


def _plain_mode(image: Image.Image) -> str:
    """The one of the modes L, LA, RGB and RGBA that can hold an image in another mode of at most 8 bits."""
    if image.mode in ("1", "L", "LA", "La"):
        return "LA" if image.has_transparency_data else "L"
    return "RGBA" if image.has_transparency_data else "RGB"


def _carrier(info: Mapping[str, Any]) -> pyvips.Image:
    """A picture of one pixel with the profile and metadata in the ``info`` of a PIL image, made through a JPEG file."""
    file = BytesIO()
    kept = {name: info[name] for name in ("exif", "icc_profile", "xmp") if isinstance(info.get(name), bytes)}
    try:
        Image.new("L", (1, 1)).save(file, "JPEG", **kept)
    except (OSError, ValueError):  # damaged, or too large for a JPEG file
        Image.new("L", (1, 1)).save(file, "JPEG")
    return pyvips.Image.new_from_buffer(file.getvalue(), "")


def metadata_of(image: pyvips.Image) -> dict[str, tuple[int, Any]]:
    """The metadata of a vips image, without the preview image of the camera."""
    names = [name for name in image.get_fields() if name.startswith(METADATA)]
    return {name: (image.get_typeof(name), image.get(name)) for name in names}


def reason(error: pyvips.Error) -> str:
    """The last line of libvips' message. The lines before it name the file and the operation."""
    lines = [line.strip() for line in str(error.detail or error.message).splitlines() if line.strip()]
    return (lines or ["unknown error"])[-1].rstrip(".")


def _in_8_bits(levels: np.ndarray) -> np.ndarray:
    return (levels.astype(np.float32) / 257).round().astype(np.uint8) if levels.dtype == np.uint16 else levels


def _pil(levels: np.ndarray) -> Image.Image:
    """A PIL image of H W C in 8 bits."""
    if levels.shape[-1] == 2:
        return Image.merge("LA", [Image.fromarray(np.ascontiguousarray(levels[..., i])) for i in range(2)])
    return Image.fromarray(levels[..., 0] if levels.shape[-1] == 1 else levels)
