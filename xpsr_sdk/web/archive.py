"""ZIP files of photos: what is uploaded is unpacked with care, and results are packed for the download."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath

from xpsr_sdk.data.files import READABLE
from xpsr_sdk.errors import ImageError

SIGNATURE = b"PK\x03\x04"
"""How a ZIP file begins."""
CHUNK = 2**20
"""Bytes that are copied at a time."""


def is_zip(file: Path) -> bool:
    """Whether the file is a ZIP file."""
    with file.open("rb") as content:
        return content.read(4) == SIGNATURE


def unpacked(
    archive: Path, new_folder: Callable[[], Path], most_photos: int, most_bytes: float
) -> Iterator[tuple[Path, str]]:
    """Unpack the photos of a ZIP file, each into a folder of its own under a name of ours.

    Files that are no photos by their names are left out, and so are hidden files.

    Args:
        archive: The ZIP file.
        new_folder: Makes a folder.
        most_photos: How many photos there may be.
        most_bytes: How large each of them may be.

    Yields:
        The file, and its name in the archive.

    Raises:
        ImageError: It is damaged or encrypted, or holds too many or too large photos, or none.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            photos = [member for member in opened.infolist() if _is_photo(member)]
            if not photos:
                raise ImageError("There is no photo in the ZIP file.")
            if len(photos) > most_photos:
                raise ImageError(f"There are {len(photos)} photos in the ZIP file: {most_photos} is the most.")
            for member in photos:
                folder = new_folder()
                try:
                    with opened.open(member) as packed, (folder / "photo").open("wb") as plain:
                        _copy(packed, plain, most_bytes, member.filename)
                except BaseException:
                    shutil.rmtree(folder, ignore_errors=True)
                    raise
                yield folder / "photo", member.filename
    except ImageError:
        raise
    except OSError as error:
        raise ImageError(f"The ZIP file cannot be read: {error.strerror or 'it is damaged'}.") from None
    except NotImplementedError:
        raise ImageError("The ZIP file cannot be read: it is compressed in a way that is not supported.") from None
    except Exception as error:  # besides BadZipFile, decompressors raise errors of their own at damage
        is_locked = isinstance(error, RuntimeError) and "password" in str(error)
        reason = "it is encrypted" if is_locked else "it is damaged"
        raise ImageError(f"The ZIP file cannot be read: {reason}.") from None


def packed(files: Iterable[tuple[str, Callable[[Path], None]]], archive: Path) -> None:
    """Write a ZIP file.

    Args:
        files: The name of each file, and what writes it to a path. If two have the same name, the second is numbered.
        archive: The ZIP file.
    """
    taken: set[str] = set()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as opened:  # images are compressed as they are
        for name, write in files:
            own = _free(PurePosixPath(name), taken)
            taken.add(own.casefold())
            plain = archive.with_name(f"{archive.stem}-one{PurePosixPath(own).suffix}")
            try:
                write(plain)
                opened.write(plain, own)
            finally:
                plain.unlink(missing_ok=True)


def _is_photo(member: zipfile.ZipInfo) -> bool:
    path = PurePosixPath(member.filename)
    hidden = any(part.startswith((".", "__MACOSX")) for part in path.parts)
    return not member.is_dir() and not hidden and path.suffix.lower() in READABLE


def _copy(source: object, target: object, most_bytes: float, name: str) -> None:
    """Copy a file whose header may lie about its size."""
    read, write = source.read, target.write  # type: ignore[attr-defined]
    copied = 0
    while chunk := read(CHUNK):
        copied += len(chunk)
        if copied > most_bytes:
            raise ImageError(f"{name} in the ZIP file is larger than {most_bytes / 1e6:g} MB, the most.")
        write(chunk)


def _free(path: PurePosixPath, taken: set[str]) -> str:
    """The name, with a number if it is taken."""
    name, number = str(path), 2
    while name.casefold() in taken:
        name = str(path.with_stem(f"{path.stem}-{number}"))
        number += 1
    return name
