"""Which files are images. Loads no large package."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

WRITABLE = frozenset({".avif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
"""The file types that are written."""
READABLE = WRITABLE | {".bmp", ".gif", ".heic", ".heif"}
"""The file types that are looked for in folders. Other types that Pillow can read are read only as single files."""


def find_images(folder: Path) -> list[Path]:
    """All images below ``folder``, in the order of their names."""
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in READABLE and p.is_file())


def listed(names: Iterable[str]) -> str:
    """Names for a message."""
    return ", ".join(sorted(names))
