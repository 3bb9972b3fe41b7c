"""A still image with everything that a file may hold: gray or colour, 8 or 16 bits, alpha, profile, metadata."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from io import BytesIO
from typing import Any

import numpy as np
import pyvips
from PIL import Image, ImageCms

from xpsr_sdk.data.color_profiles import PROFILE, is_usable, profile_of, to_srgb, without_profile
from xpsr_sdk.data.decoding import decoding
from xpsr_sdk.data.forks import check_not_forked
from xpsr_sdk.errors import ImageError

MOST_DPI = 1e6
"""Pixels an inch: what is said of more of them is damage, and no file could hold it."""
METADATA = ("exif", "xmp", "iptc", "photoshop", "png-comment")
"""Prefixes of the fields of a vips image that hold metadata. The colour profile is treated separately."""


@dataclass(frozen=True, eq=False)
class Picture:
    """A still image, upright. Pixels are decoded when they are needed, and may lie in a file.

    Attributes:
        pixels: H W C of 8 or 16 bits. C is 1: gray, 2: gray and alpha, 3: RGB, 4: RGB and alpha (not premultiplied).
        name: The name for messages.
        profile: ICC profile of the colours. None: sRGB.
        metadata: Metadata fields under libvips' names, each with its type and value.
        dpi: Pixels an inch, across and down. None: the file says nothing about them.
        keeps_alive: An object that must exist as long as the pixels, such as the folder of a temporary file.
    """

    pixels: pyvips.Image
    name: str = "the image"
    profile: bytes | None = None
    metadata: Mapping[str, tuple[int, Any]] = field(default_factory=dict)
    dpi: tuple[float, float] | None = None
    keeps_alive: object = None

    def __reduce__(self) -> tuple[Any, ...]:
        pixels = self.window(0, 0, *self.size)  # of which libvips only has a handle
        return _unpickled, (pixels, self.name, self.profile, dict(self.metadata), self.dpi)

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
            ConfigError: See ``check_not_forked``.
        """
        check_not_forked()
        with decoding(self.name):
            return np.asarray(self.pixels.crop(left, top, width, height).numpy()).reshape(height, width, -1)

    def cropped(self, left: int, top: int, width: int, height: int) -> Picture:
        """A rectangle of the picture."""
        return replace(self, pixels=self.pixels.crop(left, top, width, height))

    def without_metadata(self) -> Picture:
        """The picture without EXIF, XMP, IPTC and comments, which a decoded file also has in its pixels."""
        pixels = self.pixels.copy()
        for name in pixels.get_fields():
            if name.startswith(METADATA):
                pixels.remove(name)
        return replace(self, pixels=pixels, metadata={})

    def shrunk(self, side: int) -> Picture:
        """The picture, made smaller if a side is longer than ``side``."""
        factor = side / max(self.size)
        return self if factor >= 1 else replace(self, pixels=self.pixels.resize(factor))

    def in_srgb(self) -> Picture:
        """The picture in sRGB, without a profile. Colours outside of sRGB are clipped."""
        if not self.profile:
            return self
        with decoding(self.name):
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


def from_levels(levels: np.ndarray, name: str = "the array") -> Picture:
    """An array as a picture: H W or H W C, of uint8, uint16, or floats in [0, 1], which become 16 bits.

    Raises:
        ImageError: It has another shape, type or range.
    """
    shape = tuple(levels.shape)
    levels = levels[0] if levels.ndim == 4 and len(levels) == 1 else levels
    levels = levels[..., None] if levels.ndim == 2 else levels
    if levels.ndim != 3 or levels.shape[-1] not in (1, 2, 3, 4) or not levels.size:
        raise ImageError(
            f"{name} has the shape {shape}: arrays are H W or H W C, and tensors H W or C H W, with 1 to 4 channels."
        )
    if np.issubdtype(levels.dtype, np.floating):
        if not (np.isfinite(levels).all() and levels.min() >= 0 and levels.max() <= 1):
            raise ImageError(f"{name} holds levels that are not from 0 to 1, as floats must be.")
        levels = np.round(levels.astype(np.float64) * 65535).astype(np.uint16)
    if levels.dtype not in (np.uint8, np.uint16):
        raise ImageError(f"{name} holds {levels.dtype}: give uint8, uint16, or floats from 0 to 1.")
    return replace(picture_of(levels), name=name)


def _unpickled(pixels: np.ndarray, name: str, profile: bytes | None, metadata: Any, dpi: Any) -> Picture:
    """See ``Picture.__reduce__``."""
    return replace(picture_of(pixels), name=name, profile=profile, metadata=metadata, dpi=dpi)


def from_pil(image: Image.Image, name: str = "the image") -> Picture:
    """A picture of a PIL image in any mode except F, with the profile and the metadata in its ``info``.

    White is 255 in mode I if no level is higher, else 65535: Pillow converts 8 bits to this mode without a change, and
    reads 16 bits into it.

    Raises:
        ImageError: The levels are floats, for which the level of white is not defined, or they do not fit into 16
            bits.
    """
    if image.mode == "F":
        raise ImageError(f"{name} holds floating-point levels: save it with 8 or 16 bits a channel.")
    if image.mode == "LAB":
        lab, srgb = (ImageCms.createProfile(space) for space in ("LAB", "sRGB"))
        image = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB") or image
    if image.mode == "I":
        pixels = _in_16_bits(np.asarray(image), name)
    elif image.mode.startswith("I;16"):
        pixels = np.asarray(image).astype(np.uint16)
    elif image.mode == "CMYK":
        pixels = np.asarray(image)
    else:
        pixels = np.asarray(image.convert(_plain_mode(image)))
    return from_array(
        pixels, {str(key): value for key, value in image.info.items()}, name, is_cmyk=image.mode == "CMYK"
    )


def _in_16_bits(levels: np.ndarray, name: str) -> np.ndarray:
    """Levels of 32 bits as those of 8 or 16 bits that they hold."""
    least, most = int(levels.min(initial=0)), int(levels.max(initial=0))
    if least < 0 or most > 65535:
        raise ImageError(f"{name} holds levels from {least} to {most}: save it with 8 or 16 bits a channel.")
    return levels.astype(np.uint8 if most <= 255 else np.uint16)


def from_array(
    pixels: np.ndarray, info: Mapping[str, Any], name: str, is_cmyk: bool = False, bits: int = 16
) -> Picture:
    """A picture of pixels, H W or H W C of 8 or 16 bits. ``info`` is that of a PIL image: profile and metadata.

    ``bits`` says how many of 16 bits are used, from the highest on.
    """
    carrier = _carrier(info)
    color = pyvips.Image.new_from_array(np.ascontiguousarray(pixels.reshape(*pixels.shape[:2], -1)))
    color = color.copy(interpretation="cmyk") if is_cmyk else picture_of(color).pixels
    color.set_type(pyvips.GValue.gint_type, "bits-per-sample", bits)
    if profile := profile_of(carrier):
        color.set_type(pyvips.GValue.blob_type, PROFILE, profile)
    return from_vips(color, name, metadata_of(carrier), _dpi_of_pil(info) or dpi_of(carrier))


def from_vips(
    image: pyvips.Image,
    name: str,
    metadata: Mapping[str, tuple[int, Any]],
    dpi: tuple[float, float] | None = None,
) -> Picture:
    """A picture of a vips image. CMYK is converted to sRGB, and a profile that does not fit the channels is left out.

    Raises:
        ImageError: The levels do not have 8 or 16 bits, or there are other channels than colours and alpha.
    """
    if image.interpretation in ("lab", "labs", "labq"):
        image = image.colourspace("srgb")
    image = _to_full_white(image)
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
    if dpi and not (min(dpi) > 0 and max(dpi) <= MOST_DPI):
        dpi = None
    return picture_of(whole, like=Picture(whole, name, profile, metadata, dpi))


def _to_full_white(image: pyvips.Image) -> pyvips.Image:
    """Levels of 9 to 15 bits, which libvips shifts up to 16 bits, stretched so that white is 65535."""
    bits = image.get("bits-per-sample") if image.get_typeof("bits-per-sample") else 16
    if image.format != "ushort" or not 8 < bits < 16:
        return image
    white = (2**bits - 1) * 2 ** (16 - bits)
    return (image * (65535 / white)).rint().cast("ushort").copy(interpretation=image.interpretation)


def _plain_mode(image: Image.Image) -> str:
    """The one of the modes L, LA, RGB and RGBA that can hold an image in another mode of at most 8 bits."""
    if image.mode in ("1", "L", "LA", "La"):
        return "LA" if image.has_transparency_data else "L"
    return "RGBA" if image.has_transparency_data else "RGB"


def _carrier(info: Mapping[str, Any]) -> pyvips.Image:
    """A picture of one pixel with the metadata and the profile of a PIL image's ``info``, by way of a JPEG file."""
    kept = {name: info[name] for name in ("exif", "icc_profile", "xmp") if isinstance(info.get(name), bytes)}
    try:
        Image.new("L", (1, 1)).save(file := BytesIO(), "JPEG", **kept)
    except Exception:  # damaged, or more than a JPEG file holds
        Image.new("L", (1, 1)).save(file := BytesIO(), "JPEG")
    return pyvips.Image.new_from_buffer(file.getvalue(), "")


def metadata_of(image: pyvips.Image) -> dict[str, tuple[int, Any]]:
    """The metadata of a vips image, without the preview image of the camera."""
    names = [name for name in image.get_fields() if name.startswith(METADATA)]
    return {name: (image.get_typeof(name), image.get(name)) for name in names}


def dpi_of(image: pyvips.Image) -> tuple[float, float] | None:
    """The pixels an inch that a file gives: libvips makes up a resolution where there is none."""
    if not image.get_typeof("resolution-unit"):  # PNG has none, and 2834 pixels a metre are made up
        is_given = image.get_typeof("vips-loader") and image.get("vips-loader").startswith("pngload")
        return (image.xres * 25.4, image.yres * 25.4) if is_given and round(image.xres * 1000) != 2834 else None
    if image.xres == image.yres == 1.0:  # of WebP, AVIF and HEIC, libvips reads no more than EXIF's fields
        return _dpi_of_exif(image)
    return image.xres * 25.4, image.yres * 25.4


def _dpi_of_exif(image: pyvips.Image) -> tuple[float, float] | None:
    """From fields such as ``"3000/10 (300.0, Rational, 1 components, 8 bytes)"``."""
    found = []
    for field_name in ("exif-ifd0-XResolution", "exif-ifd0-YResolution"):
        text = image.get(field_name).split()[0] if image.get_typeof(field_name) else "0/1"
        above, _, below = text.partition("/")
        if not (above.isdecimal() and below.isdecimal() and int(above) and int(below)):
            return None
        found.append(int(above) / int(below))
    times = 2.54 if image.get("resolution-unit") == "cm" else 1.0
    return found[0] * times, found[1] * times


def _dpi_of_pil(info: Mapping[str, Any]) -> tuple[float, float] | None:
    """What the ``info`` of a PIL image says. (1, 1) stands for TIFF files that say nothing."""
    try:
        across, down = (float(value) for value in info["dpi"])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    return (across, down) if math.isfinite(across * down) and min(across, down) > 1 else None


def _in_8_bits(levels: np.ndarray) -> np.ndarray:
    return (levels.astype(np.float32) / 257).round().astype(np.uint8) if levels.dtype == np.uint16 else levels


def _pil(levels: np.ndarray) -> Image.Image:
    """A PIL image of H W C in 8 bits."""
    if levels.shape[-1] == 2:
        return Image.merge("LA", [Image.fromarray(np.ascontiguousarray(levels[..., i])) for i in range(2)])
    return Image.fromarray(levels[..., 0] if levels.shape[-1] == 1 else levels)
