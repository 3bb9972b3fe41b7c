"""Which files are images. Loads no large package."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import get_args

from xpsr_sdk.config import FileType
from xpsr_sdk.files.remote import RemotePath

WRITABLE = frozenset(f".{name}" for name in get_args(FileType))
"""The file types that are written."""
LOSSY = frozenset((".avif", ".jpeg", ".jpg", ".webp"))
"""Those of them that lose some of the picture, so that they have a quality."""
READABLE = WRITABLE | {".bmp", ".gif", ".heic", ".heif", ".jfif", ".jpe"}
"""The file types that are looked for in folders. Other types that Pillow can read are read only as single files."""


def find_images(folder: Path) -> list[Path]:
    """All images below ``folder``, in the order of their names.

    Hidden files and folders, whose names begin with a dot, are left out, with a warning that counts the images among
    them: other programs keep companions of photos and previews there. Links to folders are followed, to each folder
    once.
    """
    found: list[Path] = []
    hidden: list[Path] = []
    for path in _files_below(folder):
        if path.suffix.lower() in READABLE:  # a broken link, too: whoever reads it tells so
            is_hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
            (hidden if is_hidden else found).append(path)
    if hidden:
        names = f"{len(hidden)} hidden images are" if len(hidden) > 1 else "1 hidden image is"
        warnings.warn(f"{folder}: {names} left out, such as {hidden[0].relative_to(folder)}.", stacklevel=2)
    return sorted(found)


def _files_below(folder: Path) -> Iterator[Path]:
    """The files of a folder and of all below it. Links are followed last, so that they add only what is elsewhere."""
    if isinstance(folder, RemotePath):
        yield from folder.files_below()
        return
    links, seen = [folder], set[str]()
    while links:
        for here, folders, files in os.walk(links.pop(0), followlinks=False):
            real = os.path.realpath(here)
            if real in seen:
                folders.clear()
                continue
            seen.add(real)
            links += [Path(here, name) for name in sorted(folders) if Path(here, name).is_symlink()]
            yield from (Path(here, name) for name in files)


def listed(names: Iterable[str]) -> str:
    """Names for a message."""
    return ", ".join(sorted(names))
