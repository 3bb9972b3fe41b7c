"""Tells whether another process works on the same folder, or on the same file in it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from xpsr_sdk.errors import XPSRError
from xpsr_sdk.files.leftovers import remove_leftovers
from xpsr_sdk.files.remote import RemotePath
from xpsr_sdk.files.writing import PARTIAL

CLAIM = ".lock"
"""How the names of claims end, which begin with ``PARTIAL``."""


@contextmanager
def folder_lock(folder: Path, raises: type[XPSRError]) -> Iterator[bool]:
    """Hold a folder for the block; gives False where another process holds it, True where not, or nobody can tell.

    The lock is on the folder itself, so that no file is left, and the system takes it back from a process that ends in
    whatever way. Windows, some network drives and folders that are reached by URL have no such locks. A folder that is
    not there is made; it goes again if it stays empty.

    Raises:
        XPSRError: Of the type ``raises``: the folder cannot be made or opened.
    """
    if isinstance(folder, RemotePath):
        yield True
        return
    is_new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY) if os.name == "posix" else None
    except OSError as error:
        raise raises(f"{folder} cannot be written to: {error.strerror or error}.") from None
    try:
        yield handle is None or _lock(handle)
    finally:
        if handle is not None:
            os.close(handle)
        if is_new:
            with suppress(OSError):  # unless it was filled
                folder.rmdir()


@contextmanager
def file_claim(file: Path) -> Iterator[bool]:
    """Hold the right to write a file for the block; gives False where another process holds it.

    The lock is on a hidden file beside it, which goes at the end; one that a killed process left goes when the same
    file is claimed again, or with ``remove_abandoned``. Folders that are not there are made, and go again if they stay
    empty. Where nobody can tell (see ``folder_lock``), or nothing can be written, it gives True: whoever writes the
    file tells what is wrong.
    """
    if isinstance(file, RemotePath):
        yield True
        return
    claim = file.with_name(f"{PARTIAL}{hashlib.sha256(os.fsencode(file.name)).hexdigest()[:16]}{CLAIM}")
    made = [folder for folder in file.parents if not folder.exists()]
    handle, is_held = None, True
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        if os.name == "posix":
            handle = os.open(claim, os.O_RDWR | os.O_CREAT, 0o666)
            is_held = _lock(handle)
    try:
        yield is_held
    finally:
        if handle is not None:
            if is_held:
                claim.unlink(missing_ok=True)
            os.close(handle)
        for folder in made:
            with suppress(OSError):  # unless it was filled
                folder.rmdir()


def is_claimed(file: Path) -> bool:
    """Whether another process holds the right to write a file."""
    with file_claim(file) as is_held:
        return not is_held


def remove_abandoned(folder: Path) -> None:
    """Remove what killed processes left in a folder: files that they were writing, and claims that nobody holds."""
    if isinstance(folder, RemotePath):
        return
    remove_leftovers(folder, PARTIAL)
    if os.name == "posix":
        for claim in folder.glob(f"{PARTIAL}*{CLAIM}"):
            with suppress(OSError):
                _remove_claim(claim)


def _remove_claim(claim: Path) -> None:
    handle = os.open(claim, os.O_RDWR)
    try:
        if _lock(handle):
            claim.unlink(missing_ok=True)
    finally:
        os.close(handle)


def _lock(handle: int) -> bool:
    import fcntl  # which Windows does not have

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # of a drive without locks
        return True
    return True
