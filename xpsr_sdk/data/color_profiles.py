"""ICC profiles: recognizes sRGB, and converts pixels to sRGB."""

from __future__ import annotations

from functools import lru_cache
from io import BytesIO

import numpy as np
import pyvips
from PIL import ImageCms

from xpsr_sdk.data.forks import check_not_forked

PROFILE = "icc-profile-data"
"""The field of a vips image that holds its profile."""


def profile_of(image: pyvips.Image) -> bytes | None:
    """The ICC profile that an image carries."""
    return bytes(image.get(PROFILE)) if image.get_typeof(PROFILE) else None


def to_srgb(image: pyvips.Image) -> pyvips.Image:
    """Convert an image without alpha to sRGB. It stays gray or RGB, keeps its bit depth, and has no profile afterwards.

    Colours outside of sRGB are clipped (relative colorimetric, with black point compensation). An image without a
    profile that fits its channels is assumed to be sRGB. CMYK without a profile is converted with a simple formula, as
    in browsers.
    """
    profile = profile_of(image)
    if profile and is_usable(profile, image.bands):
        if is_srgb(profile):
            return without_profile(image)
        depth = 16 if image.format == "ushort" else 8
        rgb = image.icc_transform("srgb", embedded=True, intent="relative", black_point_compensation=True, depth=depth)
        return without_profile(rgb[0].copy(interpretation="b-w") if image.bands == 1 else rgb)
    return without_profile(_inks_to_rgb(image) if image.bands == 4 else image)


def _inks_to_rgb(cmyk: pyvips.Image) -> pyvips.Image:
    """``(1 - C) (1 - K)``, and so on."""
    most = 65535 if cmyk.format == "ushort" else 255
    paper = cmyk * -1 + most
    rgb = (paper[0:3] * paper[3] / most).rint().cast(cmyk.format)
    return rgb.copy(interpretation="rgb16" if most > 255 else "srgb")


def without_profile(image: pyvips.Image) -> pyvips.Image:
    """The same pixels, as sRGB."""
    if image.get_typeof(PROFILE):
        image = image.copy()
        image.remove(PROFILE)
    return image


@lru_cache(maxsize=64)
def is_usable(profile: bytes, channels: int) -> bool:
    """Whether the profile is undamaged and is for images with so many channels."""
    try:
        opened = ImageCms.ImageCmsProfile(BytesIO(profile))
        space = opened.profile.xcolor_space.strip()
    except Exception:  # whatever a damaged profile makes of it
        return False
    return bool(space == {1: "GRAY", 3: "RGB", 4: "CMYK"}[channels])


@lru_cache(maxsize=64)
def is_srgb(profile: bytes) -> bool:
    """Whether the profile gives the same colours as sRGB, up to one of 255 levels. Its name is not considered."""
    if not is_usable(profile, 3):
        return False
    check_not_forked()
    steps = np.linspace(0, 255, 5, dtype=np.uint8)
    grid = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(1, -1, 3)
    image = pyvips.Image.new_from_array(grid).copy(interpretation="srgb")
    image.set_type(pyvips.GValue.blob_type, PROFILE, profile)
    levels = image.icc_transform("srgb", embedded=True, intent="relative").numpy()
    return int(np.abs(levels.astype(int) - grid).max()) <= 1
