"""Names of temporary files that say who made them, so that what a killed process left can be told and removed.

``PREFIX`` + ``PROCESS-HOST-RANDOM``: the number of the process, and a short hash of the machine's name.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import secrets
import shutil
import tempfile
import time
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

TAIL = re.compile(r"(\d+)-([0-9a-f]{8})-[0-9a-f]{12}(-old)?$")
"""How names from ``temporary_name`` end."""
OLD = 7 * 24 * 3600
"""Seconds after which what a process of another machine left is taken for left over."""


def temporary_name(prefix: str) -> str:
    """A new name of a temporary file or folder of this process."""
    return f"{prefix}{os.getpid()}-{_host()}-{secrets.token_hex(6)}"


def new_temporary_folder(prefix: str) -> Path:
    """A new folder for temporary files of this process, which nobody else can read.

    What killed processes left there under this prefix is removed first.
    """
    place = Path(tempfile.gettempdir())
    remove_leftovers_once(place, prefix)
    folder = place / temporary_name(prefix)
    folder.mkdir(mode=0o700)
    return folder


def is_temporary(name: str) -> bool:
    """Whether a name comes from ``temporary_name``."""
    return TAIL.search(name) is not None


def remove_leftovers(folder: Path, prefix: str) -> None:
    """Remove what killed processes left in ``folder`` under names from ``temporary_name``.

    That is what belongs to this user, and whose process has ended, or, if it ran on another machine, what nobody has
    written to for a week.
    """
    with suppress(OSError):
        for entry in os.scandir(folder):
            parts = TAIL.search(entry.name) if entry.name.startswith(prefix) else None
            if parts and _is_left_over(entry, int(parts[1]), parts[2]):
                _remove(Path(entry.path))


@lru_cache(maxsize=256)
def remove_leftovers_once(folder: Path, prefix: str) -> None:
    """The same, but only when this process asks for the first time: a folder may hold many files."""
    remove_leftovers(folder, prefix)


def _is_left_over(entry: os.DirEntry[str], process: int, host: str) -> bool:
    with suppress(OSError):
        status = entry.stat(follow_symlinks=False)
        is_own = not hasattr(os, "getuid") or status.st_uid == os.getuid()
        if host == _host():
            return is_own and not _is_running(process)
        return is_own and time.time() - status.st_mtime > OLD
    return False


def _is_running(process: int) -> bool:
    """Whether a process of this machine still works. One that was killed may stay in the list until its parent asks."""
    import psutil

    try:
        return bool(psutil.Process(process).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


@lru_cache(maxsize=1)
def _host() -> str:
    return hashlib.sha256(platform.node().encode()).hexdigest()[:8]
