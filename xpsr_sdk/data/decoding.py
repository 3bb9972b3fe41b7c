"""Which decoder reads a file, by its first bytes, and what the decoders raise in words of our own."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pyvips
from PIL import Image, UnidentifiedImageError

from xpsr_sdk.errors import ImageError, XPSRError

PILLOW_FORMATS = (
    *("AVIF", "BMP", "DDS", "DIB", "GIF", "ICO", "JPEG", "JPEG2000"),
    *("PCX", "PNG", "PPM", "QOI", "SGI", "TGA", "TIFF", "WEBP"),
)
"""What Pillow may decode: not the types for which it starts other programs, as Ghostscript for EPS."""
_CUT_OFF = re.compile("premature|truncated|unexpected end|end of (file|stream|gif)|not enough|eof", re.IGNORECASE)
"""What decoders say of a file whose end is missing."""
_HEIF_BRANDS = (b"avif", b"heic", b"heix", b"hevc", b"heim", b"heis", b"hevm", b"hevs", b"mif1", b"msf1")


def vips_loader(head: bytes) -> str | None:
    """The operation of libvips that reads a file with these first 12 bytes; None: it is none of the types for it.

    Named, not found by libvips itself, which may know more types than are safe to be read.
    """
    if head.startswith(b"\xff\xd8\xff"):
        return "jpegload_source"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "pngload_source"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "gifload_source"
    if head.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return "tiffload_source"
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "webpload_source"
    if head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS:
        return "heifload_source"
    return None


def pillow_formats() -> list[str]:
    """Those of ``PILLOW_FORMATS`` that the installed Pillow was built with."""
    Image.init()
    return [name for name in PILLOW_FORMATS if name in Image.OPEN]


@contextmanager
def decoding(name: str) -> Iterator[None]:
    """Within the block, whatever a decoder raises is an ``ImageError`` about the image ``name``.

    Decoders raise what they like at damaged files: OSError and SyntaxError, but also TypeError, EOFError,
    UnicodeDecodeError, struct.error and OverflowError.
    """
    try:
        yield
    except XPSRError:
        raise
    except pyvips.Error as error:
        raise ImageError(f"{name} is damaged: {_plainly(str(error.detail or error.message))}.") from None
    except UnidentifiedImageError:
        raise ImageError(f"{name} is not an image, or of a type that is not supported.") from None
    except Image.DecompressionBombError:
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0) / 1e6
        raise ImageError(f"{name} is refused as too large: of its type, {most:.0f} megapixels are the limit.") from None
    except MemoryError:
        raise ImageError(f"{name} cannot be read: there is not enough memory for it.") from None
    except OSError as error:
        raise ImageError(f"{name} is damaged: {error.strerror or _plainly(str(error))}.") from None
    except Exception as error:
        raise ImageError(f"{name} is damaged: {_plainly(str(error))}.") from error


def _plainly(words: str) -> str:
    """What a decoder says, in our own words; its own ones are in the exception that is the cause, or its context."""
    if "closed image" in words:
        return "it was closed before it was read"
    return "its end is missing" if _CUT_OFF.search(words) else "it cannot be decoded"


def reason(error: pyvips.Error) -> str:
    """What libvips says last, in one line: the lines before it name the file and the operation."""
    lines = [line.strip() for line in str(error.detail or error.message).splitlines() if line.strip()]
    return (lines or ["unknown error"])[-1].rstrip(".")
