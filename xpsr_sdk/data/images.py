"""Reading, resizing and writing images."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import warnings
import weakref
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyvips
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn.functional import interpolate

from xpsr_sdk.contracts import Item
from xpsr_sdk.data.decoding import decoding, pillow_formats, vips_loader
from xpsr_sdk.data.files import WRITABLE, listed
from xpsr_sdk.data.picture import Picture, dpi_of, from_array, from_pil, from_vips, metadata_of
from xpsr_sdk.data.png import frames_of, latin_texts
from xpsr_sdk.data.writing import save_picture
from xpsr_sdk.errors import ImageError
from xpsr_sdk.files.reading import check_regular
from xpsr_sdk.files.remote import RemotePath
from xpsr_sdk.files.writing import write_whole

MAX_MEGAPIXELS = 300.0
"""Larger images are refused by default, because even a small file may claim any size."""
LONGEST_SIDES = {".avif": 16384, ".jpg": 65500, ".webp": 16383}
"""The most pixels in a direction that a type of file can hold, or that libvips writes to it."""


MAX_TRAINING_MEGAPIXELS = 100.0
"""The same for photos that are captioned or trained on, which are decoded as a whole."""


def read_image(path: Path, max_megapixels: float = MAX_MEGAPIXELS) -> Item:
    """Read an image file in 8 bits of sRGB, upright. Transparent parts are put on white.

    Raises:
        ImageError: The file does not exist, or it is not an undamaged still image of at most that size.
    """
    return Item(read_picture(path, max_megapixels).to_rgb(), path, partial(sha256_of, path))


def sha256_of(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_picture(path: Path, max_megapixels: float = MAX_MEGAPIXELS) -> Picture:
    """Read an image file with alpha, profile and metadata. Large images are decoded to a temporary file.

    Raises:
        ImageError: The file does not exist, or it is not a still image of at most that size.
    """
    check_regular(path, ImageError)
    if isinstance(path, RemotePath):
        return picture_in(_bytes_of(path), max_megapixels, str(path))
    with decoding(str(path)):
        return _decoded(path, max_megapixels)


def _bytes_of(path: RemotePath) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ImageError(f"{path} cannot be read: {error.strerror}.") from None


def picture_in(content: bytes, max_megapixels: float, name: str = "the photo") -> Picture:
    """The picture in the bytes of an image file, by way of a temporary file.

    Raises:
        ImageError: See ``read_picture``.
    """
    copy = _TemporaryFile(content)
    try:
        picture = read_picture(copy.path, max_megapixels)
    except ImageError as error:
        raise ImageError(str(error).replace(str(copy.path), name)) from None
    return replace(picture, name=name, keeps_alive=copy)


class _TemporaryFile:
    """A file that is gone when nobody holds it any more: pixels are decoded when they are asked for."""

    def __init__(self, content: bytes) -> None:
        folder = tempfile.mkdtemp(prefix="xpsr-")
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self.path = Path(folder, "photo")
        self.path.write_bytes(content)


def _decoded(path: Path, max_megapixels: float) -> Picture:
    image = _open_with_vips(path)
    if image is None:
        return _read_with_pillow(path, max_megapixels)
    refuse_large(path, image.width, image.height, max_megapixels)
    if image.get_typeof("heif-compression") and image.get("heif-compression") == "hevc":
        return _read_heic(path)
    _refuse_animated(path, image)
    upright = image.autorot()
    return from_vips(upright, str(path), metadata_of(upright) | _latin_texts(path, upright), dpi_of(upright))


def _latin_texts(path: Path, image: pyvips.Image) -> dict[str, tuple[int, Any]]:
    """The metadata of a PNG file that libvips misreads, as ``metadata_of`` gives it."""
    if not image.get("vips-loader").startswith("pngload"):
        return {}
    with path.open("rb") as file:
        texts = latin_texts(file)
    return {name: (image.get_typeof(name), text) for name, text in texts.items() if image.get_typeof(name)}


def _open_with_vips(path: Path) -> pyvips.Image | None:
    """Open an image, and read only its header. None: libvips does not read this file type, or not well."""
    try:
        with path.open("rb") as file:
            head = file.read(12)
    except OSError as error:
        raise ImageError(f"{path} cannot be read: {error.strerror}.") from None
    if not head:
        raise ImageError(f"{path} is empty: it has 0 bytes.")
    loader = vips_loader(head)
    if loader is None or (loader == "tiffload_source" and _is_ycbcr_or_lab(path)):  # libvips takes YCbCr for RGB
        return None
    # A source, since libvips would read the end of some names as options; bytes, since names may not be UTF-8. For
    # libvips, a TIFF file with missing tiles is only a warning.
    source = pyvips.Source.new_from_file(os.fsencode(path))
    fail_on = "warning" if loader == "tiffload_source" else "truncated"
    image: pyvips.Image = pyvips.Operation.call(loader, source, fail_on=fail_on)
    return image


def _is_ycbcr_or_lab(path: Path) -> bool:
    """Whether a TIFF file holds such colours as they are; what JPEG compresses within TIFF, libvips reads well."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path, formats=["TIFF"]) as image:
                tags: Any = getattr(image, "tag_v2", {})
                colors, compression = tags.get(262), tags.get(259)
                return colors in (8, 9) or (colors == 6 and compression != 7)
    except Exception:  # libvips says what is wrong
        return False


def refuse_large(name: object, width: int, height: int, max_megapixels: float) -> None:
    """Raise ImageError if an image has more megapixels than are allowed."""
    if width * height > max_megapixels * 1e6:
        raise ImageError(
            f"{name} is refused as too large: {width}x{height} is {width * height / 1e6:.1f} megapixels, and the limit "
            f"is {max_megapixels:g} (max_megapixels)."
        )


def _refuse_animated(path: Path, image: pyvips.Image) -> None:
    loader = image.get("vips-loader")
    frames = image.get("n-pages") if image.get_typeof("n-pages") else 1
    if loader.startswith("heifload"):
        return  # one of the images of such a file is the main one
    if loader.startswith("pngload"):  # libvips takes an animated PNG for a still one
        with path.open("rb") as file:
            frames = frames_of(file)
    if frames > 1 and loader.startswith("tiffload"):
        raise ImageError(f"{path} has {frames} pages: only single images are restored.")
    if frames > 1:
        raise ImageError(f"{path} is animated ({frames} frames): only still images are restored.")


def _read_heic(path: Path) -> Picture:
    try:
        import pillow_heif
    except ImportError:
        raise ImageError(f"{path} is HEIC, which needs the extra xpsr-sdk[heic].") from None
    image = pillow_heif.open_heif(path, convert_hdr_to_8bit=False)
    return from_array(np.asarray(image), image.info, str(path), bits=image.info.get("bit_depth", 8))


def _read_with_pillow(path: Path, max_megapixels: float) -> Picture:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about tags that a file should not have, which change no pixel
        with Image.open(path, formats=pillow_formats()) as image:
            refuse_large(path, *image.size, max_megapixels)
            if (frames := getattr(image, "n_frames", 1)) > 1:
                raise ImageError(f"{path} is animated ({frames} frames): only still images are restored.")
            return from_pil(ImageOps.exif_transpose(image), str(path))


def write_image(image: Image.Image, path: Path) -> None:
    """Write a PIL image as ``write_picture`` does."""
    write_picture(from_pil(image), path)


def write_picture(picture: Picture, path: Path, quality: int | None = None, file_format: str | None = None) -> None:
    """Write a picture whole or not at all; the suffix of ``path`` says the type, or ``file_format``.

    See ``save_picture``.

    Raises:
        ImageError: The suffix is not supported, the image is too large for it, or the file cannot be written.
    """
    suffix = file_type(path, file_format)
    check_fits(path, *picture.size, file_format)
    write_whole(path, lambda file: save_picture(picture, file, suffix, quality, name=str(path)))


def file_type(path: Path, file_format: str | None = None) -> str:
    """The type of a file to be written, as the usual suffix of that type.

    Args:
        path: The file.
        file_format: The type, for instance ``"JPEG"``; None: the suffix of the file says it.

    Raises:
        ImageError: The type is not supported.
    """
    suffix = f".{file_format.lower().removeprefix('.')}" if file_format else path.suffix.lower()
    if suffix not in WRITABLE:
        raise ImageError(f"{path}: cannot write {suffix or 'a file without suffix'}; use one of {listed(WRITABLE)}.")
    return {".jpeg": ".jpg", ".tiff": ".tif"}.get(suffix, suffix)


def check_fits(path: Path, width: int, height: int, file_format: str | None = None) -> None:
    """Raise ImageError unless the type of the file can hold so many pixels."""
    suffix = file_type(path, file_format)
    longest = LONGEST_SIDES.get(suffix, max(width, height))
    if max(width, height) > longest:
        raise ImageError(
            f"{path} cannot be written: {width}x{height} is more than {suffix} holds, "
            f"{longest} pixels in each direction; use .png or .tif."
        )


def to_tensor(image: Image.Image) -> Tensor:
    """Convert an RGB image to 1 3 H W in [0, 1]."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255


def to_image(tensor: Tensor) -> Image.Image:
    """Convert 1 3 H W in [0, 1] to an RGB image."""
    levels = (tensor[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0)
    return Image.fromarray(levels.cpu().numpy())


def resize(image: Tensor, height: int, width: int) -> Tensor:
    """Resize B C H W to B C height width: bicubic (a = -0.5), with antialiasing when it shrinks, like Pillow."""
    if tuple(image.shape[-2:]) == (height, width):
        return image
    return interpolate(image, (height, width), mode="bicubic", antialias=True, align_corners=False)
