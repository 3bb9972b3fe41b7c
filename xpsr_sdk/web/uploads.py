"""What visitors upload: a photo, or a ZIP file of photos, of limited size."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

from fastapi import Request
from starlette.requests import ClientDisconnect

from xpsr_sdk.errors import ImageError, XPSRError
from xpsr_sdk.web.archive import is_zip, unpacked
from xpsr_sdk.web.desk import Desk
from xpsr_sdk.web.files import StoredPhoto
from xpsr_sdk.web.limits import Limits


class TooLarge(ImageError):
    """A file that is uploaded has more bytes than it may."""


async def received(request: Request, desk: Desk, limits: Limits) -> Path:
    """The body of a request as a file.

    Raises:
        TooLarge: It has more bytes than it may.
        ImageError: The space of the server is used up.
    """
    folder = await asyncio.to_thread(desk.storage.folder_for_photo)
    file, got, most = folder / "photo", 0, limits.max_file_mb * 1e6
    try:
        with file.open("wb") as target:
            async for chunk in request.stream():
                if not got and chunk.startswith(b"PK\x03\x04"):
                    most = limits.max_zip_mb * 1e6
                got += len(chunk)
                if got > most:
                    raise TooLarge(f"The file is larger than {most / 1e6:g} MB, the most here.")
                target.write(chunk)
    except (TooLarge, ClientDisconnect):
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return file


def photo_in(desk: Desk, visitor: str, file: Path, name: str) -> StoredPhoto:
    """The photo in a file. If it is none, the file is deleted.

    Raises:
        ImageError: It is no still image, or it is too large.
    """
    try:
        return desk.add_photo(visitor, file, name)
    except XPSRError:
        shutil.rmtree(file.parent, ignore_errors=True)
        raise


def photos_in(desk: Desk, limits: Limits, visitor: str, file: Path, name: str) -> list[dict[str, Any]]:
    """What the page is told of the photos in a file, which may be a ZIP file; of each that is none, name and error.

    Raises:
        ImageError: There is no photo.
    """
    if is_zip(file):
        return _photos_in_zip(desk, limits, visitor, file, name)
    return [photo_in(desk, visitor, file, name).about()]


def _photos_in_zip(desk: Desk, limits: Limits, visitor: str, file: Path, name: str) -> list[dict[str, Any]]:
    taken: list[dict[str, Any]] = []
    try:
        for photo, own in unpacked(file, desk.storage.folder_for_photo, limits.photos_each, limits.max_file_mb * 1e6):
            try:
                taken.append(photo_in(desk, visitor, photo, own).about())
            except XPSRError as error:
                taken.append({"name": own, "error": str(error)})
    except XPSRError as error:
        if not taken:
            raise
        taken.append({"name": name, "error": str(error)})
    finally:
        shutil.rmtree(file.parent, ignore_errors=True)
    return taken
