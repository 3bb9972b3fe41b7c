"""The pictures of a report: within the page, or in a folder beside it."""

from __future__ import annotations

import base64
from io import BytesIO
from pathlib import Path
from urllib.parse import quote

from PIL import Image

from xpsr_sdk.files.writing import write_whole

QUALITY = 95


class Pictures:
    """Turns pictures into what an ``img`` element has as its source.

    Args:
        folder: Where they are written, beside the page; None: they are part of the page.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._count = 0

    def photo(self, image: Image.Image) -> str:
        """The source of a photo, as a JPEG of good quality."""
        file = BytesIO()
        image.convert("RGB").save(file, "JPEG", quality=QUALITY, subsampling=0)
        return self.source(file.getvalue(), "jpg", "image/jpeg")

    def source(self, content: bytes, suffix: str, media_type: str) -> str:
        """The source of any file."""
        if self._folder is None:
            return f"data:{media_type};base64,{base64.b64encode(content).decode()}"
        self._count += 1
        file = self._folder / f"{self._count:03}.{suffix}"
        write_whole(file, lambda out: out.write(content))
        return quote(f"{self._folder.name}/{file.name}")
