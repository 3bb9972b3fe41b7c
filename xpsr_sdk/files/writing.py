"""Writes files and folders whole or not at all, as Unix tools treat links, devices and modes."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from stat import S_IMODE, S_ISREG
from typing import IO

from xpsr_sdk.errors import ImageError, XPSRError
from xpsr_sdk.files.leftovers import remove_leftovers_once, temporary_name
from xpsr_sdk.files.remote import RemotePath

PARTIAL = ".xpsr-"
"""How the names of files begin that are being written."""


def write_whole(path: Path, write: Callable[[IO[bytes]], object], raises: type[XPSRError] = ImageError) -> None:
    """Let ``write`` fill a file that appears under its name only when it is complete.

    A link stays, and what it leads to is written. A file that exists keeps its mode, and a new one gets what the umask
    leaves. A device or a FIFO gets the bytes, and is not replaced.

    Raises:
        XPSRError: Of the type ``raises``: the place cannot be written to.
    """
    try:
        if isinstance(path, RemotePath):
            _write_remote(path, write)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        target = Path(os.path.realpath(path)) if path.is_symlink() else path
        mode = target.stat().st_mode if target.exists() else None
        if mode is not None and not S_ISREG(mode):
            _write_to_device(target, write)
            return
        if mode is not None and not os.access(target, os.W_OK):
            raise PermissionError(None, "Permission denied")
        _write_beside(target, write, mode)
    except OSError as error:
        raise raises(f"{path} cannot be written: {error.strerror or error}.") from None


def _write_beside(target: Path, write: Callable[[IO[bytes]], object], mode: int | None) -> None:
    """Write a temporary file beside ``target``, and let it take its place."""
    remove_leftovers_once(target.parent, PARTIAL)
    # Not with the name itself, which may be as long as names can be.
    partial = target.with_name(temporary_name(PARTIAL))
    try:
        with partial.open("x+b") as file:
            write(file)
        if mode is not None:  # the file is closed by now, which may fail as well, if the disk is full
            partial.chmod(S_IMODE(mode))
        os.replace(partial, target)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _write_remote(target: RemotePath, write: Callable[[IO[bytes]], object]) -> None:
    """By way of a temporary file of this machine, which is sent as a whole."""
    with tempfile.NamedTemporaryFile(prefix=PARTIAL) as file:
        write(file)
        file.flush()
        target.write(file)


def _write_to_device(target: Path, write: Callable[[IO[bytes]], object]) -> None:
    """By way of a temporary file: some writers go back and forth, which a device cannot."""
    if target.is_dir():
        raise IsADirectoryError(None, "Is a directory")
    with tempfile.TemporaryFile() as file:
        write(file)
        file.seek(0)
        with target.open("wb") as device:
            shutil.copyfileobj(file, device)


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder beside ``folder`` that takes its place (and that of an older one) if the block succeeds."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{folder.name}-"
    remove_leftovers_once(folder.parent, prefix)
    partial = folder.with_name(temporary_name(prefix))
    partial.mkdir()
    old = partial.with_name(f"{partial.name}-old")
    try:
        yield partial
        if folder.exists():
            os.replace(folder, old)
        os.replace(partial, folder)
    except BaseException:
        if old.exists() and not folder.exists():
            os.replace(old, folder)
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
