"""Which files are images. Loads nothing heavy."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
"""The file types that are read and written."""


def find_images(folder: Path) -> list[Path]:
    """All images below ``folder``, in the order of their names."""
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())


def listed(names: Iterable[str]) -> str:
    """Names for a message."""
    return ", ".join(sorted(names))
