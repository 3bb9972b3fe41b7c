"""Reading, resizing and writing images."""

from __future__ import annotations

import hashlib
import os
import tempfile
import warnings
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import IO

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.nn.functional import interpolate

from xpsr_sdk.contracts import Item
from xpsr_sdk.data.files import SUFFIXES as SUFFIXES
from xpsr_sdk.data.files import find_images as find_images
from xpsr_sdk.data.files import listed as listed
from xpsr_sdk.errors import ImageError


def read_image(path: Path) -> Item:
    """An image file as RGB, turned upright as its EXIF orientation says.

    Raises:
        ImageError: There is no such file, or it is no whole, still image of a size that Pillow deems safe.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise ImageError(f"{path} does not exist.") from None
    except OSError as error:
        raise ImageError(f"{path} cannot be read: {error.strerror}.") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(BytesIO(content)) as image:
                # An MPO is a JPEG of a camera, with a preview or a second view behind the photo.
                if (frames := getattr(image, "n_frames", 1)) > 1 and image.format != "MPO":
                    raise ImageError(f"{path} is animated ({frames} frames): only still images are restored.")
                rgb = to_rgb(ImageOps.exif_transpose(image))
    except UnidentifiedImageError:
        raise ImageError(f"{path} is not an image, or of a type that is not supported.") from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise ImageError(f"{path} is refused as too large: {error}.") from None
    except (OSError, SyntaxError, ValueError) as error:
        raise ImageError(f"{path} is damaged: {error}.") from None
    return Item(rgb, path, hashlib.sha256(content).hexdigest())


def to_rgb(image: Image.Image) -> Image.Image:
    """Any image as 8-bit RGB; 16-bit gray keeps its range, transparent parts are laid on white."""
    if image.mode.startswith("I;16") or image.mode == "I":
        levels = np.asarray(image, dtype=np.float32) / 257
        return Image.fromarray(levels.round().clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        layered = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layered.size, "white"), layered).convert("RGB")
    return image.convert("RGB")


def write_image(image: Image.Image, path: Path) -> None:
    """Write an image whole or not at all; the suffix of ``path`` says the type.

    Raises:
        ImageError: The suffix is not supported, the image is too large for it, or the place cannot be written to.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise ImageError(
            f"{path}: cannot write {path.suffix or 'a file without suffix'}; use one of {listed(SUFFIXES)}."
        )
    options = {"quality": 95} if path.suffix.lower() in {".jpg", ".jpeg", ".webp"} else {}
    file_type = Image.registered_extensions()[path.suffix.lower()]
    try:
        write_whole(path, lambda file: image.save(file, format=file_type, **options))
    except ValueError as error:  # what Pillow makes of more pixels than the type can hold
        raise ImageError(f"{path} cannot be written: {error}.") from None


def write_whole(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Let ``write`` fill a file that appears under its name only when it is complete.

    Raises:
        ImageError: The place cannot be written to.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
        try:
            with os.fdopen(handle, "wb") as file:
                write(file)
            os.chmod(partial, 0o644)
            os.replace(partial, path)  # closed by now: Windows moves no open file
        except BaseException:
            os.unlink(partial)
            raise
    except OSError as error:
        raise ImageError(f"{path} cannot be written: {error.strerror or error}.") from None


def to_tensor(image: Image.Image) -> Tensor:
    """An RGB image as 1 3 H W in [0, 1]."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255


def to_image(tensor: Tensor) -> Image.Image:
    """1 3 H W in [0, 1] as an RGB image."""
    levels = (tensor[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0)
    return Image.fromarray(levels.cpu().numpy())


def resize(image: Tensor, height: int, width: int) -> Tensor:
    """Bicubic (a = -0.5, with antialiasing when it shrinks, as Pillow does), B C H W to B C height width."""
    if tuple(image.shape[-2:]) == (height, width):
        return image
    return interpolate(image, (height, width), mode="bicubic", antialias=True, align_corners=False)
