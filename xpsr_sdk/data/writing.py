"""Writing a picture into an open file: what each type of file can hold, and how libvips writes it."""

from __future__ import annotations

import re
import shutil
import tempfile
import warnings
from typing import IO, Any

import pyvips

from xpsr_sdk.data.decoding import reason
from xpsr_sdk.data.forks import check_not_forked
from xpsr_sdk.data.picture import Picture
from xpsr_sdk.data.png import HeadEditor
from xpsr_sdk.errors import ImageError

SAVERS: dict[str, tuple[str, dict[str, Any]]] = {
    ".avif": ("heifsave_target", {"compression": "av1", "Q": 90}),
    ".jpg": ("jpegsave_target", {"Q": 95}),
    ".png": ("pngsave_target", {}),
    ".tif": ("tiffsave_target", {"compression": "deflate", "predictor": "horizontal", "tile": True}),
    ".webp": ("webpsave_target", {"Q": 95}),
}
"""The operation of libvips that writes a type of file, with its options; Q is the quality of types that lose some."""
NOT_GRAY, NOT_DEEP, NOT_TRANSPARENT = (".avif", ".webp"), (".jpg", ".webp"), (".jpg",)
"""Types that cannot hold gray as such, 16 bits, or alpha."""
ORIENTATION = re.compile(rb"""(tiff:Orientation(?:>|\s*=\s*["'])\s*)[2-8]""")
"""Where XMP says how a photo is to be turned, which it need not be any more."""
UNKNOWN_DPI = 72.0
"""What EXIF and TIFF say where the resolution is not known, since they must say something (EXIF 2.3)."""


def save_picture(picture: Picture, file: IO[bytes], suffix: str, quality: int | None = None, name: str = "") -> None:
    """Write a picture to an open file, which may be a pipe.

    What the file type cannot hold is left out: for JPEG, transparent parts are put on white, with a warning; JPEG and
    WebP get 8 bits.

    Args:
        picture: What to write.
        file: Open for writing in binary mode.
        suffix: The type, one of ``SAVERS``.
        quality: From 1 to 100, of types that lose some: JPEG, WebP and AVIF. None: 95, and 90 for AVIF.
        name: What messages call the file.

    Raises:
        ImageError: libvips cannot write the picture.
        OSError: The file cannot be written to.
    """
    check_not_forked()
    name = name or "the image"
    if picture.has_alpha and suffix in NOT_TRANSPARENT:
        warnings.warn(f"{name}: {suffix} has no transparency; transparent parts are put on white.", stacklevel=2)
    operation, options = SAVERS[suffix]
    if quality is not None and "Q" in options:
        options = options | {"Q": quality}
    if picture.max_level > 255 and suffix == ".avif":
        options = options | {"bitdepth": 12}
    if suffix == ".tif":
        options = options | {"bigtiff": picture.size[0] * picture.size[1] * 8 > 2**32}
        if not (file.seekable() and file.readable()):  # libvips goes back and forth in a TIFF file
            with tempfile.TemporaryFile() as whole:
                save_picture(picture, whole, suffix, quality, name)
                whole.seek(0)
                shutil.copyfileobj(whole, file)
            return
    editor = HeadEditor(picture.dpi is not None, picture.metadata) if suffix == ".png" else None
    sink = _Sink(file, editor)
    # Formats without a field of their own say the resolution in EXIF.
    keep = "all" if picture.metadata else "icc|exif" if picture.dpi and suffix != ".png" else "icc"
    try:
        getattr(_for_type(picture, suffix), operation)(sink.target, keep=keep, **options)
    except pyvips.Error as error:
        if sink.error:
            raise sink.error from None
        raise ImageError(f"{name} cannot be written: {reason(error)}.") from None


class _Sink:
    """What libvips writes into. It keeps the error of the file, of which libvips only tells that there was one.

    Attributes:
        target: For libvips.
        error: Why the file could not be written to.
    """

    def __init__(self, file: IO[bytes], editor: HeadEditor | None) -> None:
        self._file, self._editor = file, editor
        self.error: OSError | None = None
        self.target = pyvips.TargetCustom()
        self.target.on_write(self._write)
        self.target.on_read(file.read)
        self.target.on_seek(file.seek)

    def _write(self, chunk: Any) -> int:
        content = bytes(chunk)
        try:
            self._file.write(self._editor.edited(content) if self._editor else content)
        except OSError as error:
            self.error = error
            return -1
        return len(content)


def _for_type(picture: Picture, suffix: str) -> pyvips.Image:
    """The picture as a vips image that a type of file can hold, with its profile, resolution and metadata."""
    if picture.is_gray and suffix in NOT_GRAY:
        picture = picture.in_srgb()  # a profile of gray does not go with RGB
    image = picture.pixels
    if picture.has_alpha and suffix in NOT_TRANSPARENT:
        image = image.flatten(background=[picture.max_level])
    if picture.max_level > 255 and suffix in NOT_DEEP:
        image = (image / 257).rint().cast("uchar").copy(interpretation="b-w" if image.bands < 3 else "srgb")
    across, down = picture.dpi or (UNKNOWN_DPI, UNKNOWN_DPI)
    image = image.copy(xres=across / 25.4, yres=down / 25.4)
    for name, (kind, value) in picture.metadata.items():
        image.set_type(kind, name, ORIENTATION.sub(rb"\g<1>1", value) if name.startswith("xmp") else value)
    image.set_type(pyvips.GValue.gint_type, "orientation", 1)
    image.set_type(pyvips.GValue.gstr_type, "resolution-unit", "in")
    if picture.profile:
        image.set_type(pyvips.GValue.blob_type, "icc-profile-data", picture.profile)
    return image
