"""Files of a store that fsspec reaches, by URL: ``s3://bucket/photos``, ``gs://``, ``memory://`` and others.

``RemotePath`` is a ``Path``, so that the rest of the SDK need not know where a file is. It reads (``open``, ``stat``,
``glob`` and what is built on them); ``write_whole`` writes. Credentials come from the environment alone, as the store's
own tools read them (``AWS_ACCESS_KEY_ID``, ``AWS_ENDPOINT_URL``, ...).
"""

from __future__ import annotations

import errno
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from stat import S_IFDIR, S_IFREG
from typing import IO, Any, TypeVar

from xpsr_sdk.errors import ConfigError, XPSRError, one_line, visible
from xpsr_sdk.files.leftovers import temporary_name

URL = re.compile(r"^([a-z][a-z0-9+.-]+)://?(?=[^/])")
"""How URLs begin; ``Path`` makes one slash of two."""
WHOLE_AT_ONCE = {"s3", "s3a", "gs", "gcs", "az", "abfs", "memory"}
"""Stores in which a file appears under its name only when all of it is there."""
WAITS = (0.1, 0.4, 1.6, 6.4)
"""Seconds to wait before what a store refused is tried again."""
FINAL = {
    FileNotFoundError: errno.ENOENT,
    PermissionError: errno.EACCES,
    IsADirectoryError: errno.EISDIR,
    NotADirectoryError: errno.ENOTDIR,
}
"""Errors that waiting does not help, and their numbers, which clients leave out and ``Path.exists`` needs."""

Found = TypeVar("Found")


def place(name: str | os.PathLike[str]) -> Path:
    """The path of a file or folder: a ``RemotePath`` for a URL. ``file://`` is a path of this machine.

    Raises:
        ConfigError: A URL holds a user's name or password.
    """
    if isinstance(name, RemotePath):
        return name
    text = str(name)
    if text.startswith("file:/"):
        return Path("/" + text.removeprefix("file:").lstrip("/"))
    if not URL.match(text):
        return Path(name)
    if "@" in text.split("/")[2 if "://" in text else 1]:
        raise ConfigError("A URL must hold no user and no password: credentials belong into the environment.")
    return RemotePath(text)


class RemotePath(type(Path())):  # type: ignore[misc]  # the class of paths of this system
    """The path of a file or folder that fsspec reaches. What is below it, its parent and so on are such paths, too."""

    _found: dict[str, Any] | None = None
    """What a listing said of the file."""

    def __str__(self) -> str:
        first, *others = self.parts or ("",)
        return f"{first}//{'/'.join(others)}" if first.endswith(":") else str(super().__str__())

    def __fspath__(self) -> str:
        return str(self)

    def open(self, mode: str = "r", *args: Any, **options: Any) -> IO[Any]:
        """Open the file for reading; ``write_whole`` writes it.

        Raises:
            OSError: It cannot be read, or is to be written.
        """
        if set(mode) & set("wax+"):
            raise PermissionError(None, "Only whole files can be written to this store")
        store, key = self._store()
        opened: IO[Any] = _asked(
            lambda: store.open(key, mode if "b" in mode else "r", **({} if "b" in mode else options))
        )
        return opened

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        """Size and time of the last change, and whether it is a file or a folder."""
        if self._found is None:
            store, key = self._store()
            self._found = _asked(lambda: store.info(key))
        found = self._found
        names = ("LastModified", "mtime", "updated", "created")
        changed: Any = next((found[name] for name in names if found.get(name)), 0)
        seconds = changed.timestamp() if hasattr(changed, "timestamp") else float(changed)
        mode = (S_IFDIR if found["type"] == "directory" else S_IFREG) | 0o644
        size = int(found.get("size") or 0)
        times = (int(seconds),) * 3
        return os.stat_result((mode, 0, 0, 0, 0, 0, size, *times), {"st_mtime_ns": int(seconds * 1e9)})

    @property
    def parents(self) -> Sequence[RemotePath]:
        """The folders above it, up to that of the whole store."""
        return tuple(super().parents)[:-2]

    def resolve(self, strict: bool = False) -> RemotePath:
        """The path itself: there are no links."""
        return self

    def absolute(self) -> RemotePath:
        """The path itself."""
        return self

    def is_symlink(self) -> bool:
        """There are no links."""
        return False

    def mkdir(self, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        """Folders come with their files."""

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove the file."""
        store, key = self._store()
        try:
            _asked(lambda: store.rm_file(key))
        except FileNotFoundError:
            if not missing_ok:
                raise

    def iterdir(self) -> Iterator[RemotePath]:
        """What is right in the folder."""
        return self._listed(maxdepth=1, withdirs=True)

    def glob(self, pattern: str, **options: Any) -> Iterator[RemotePath]:
        """What is right in the folder and has a name of that pattern."""
        return (path for path in self.iterdir() if path.match(pattern))

    def files_below(self) -> Iterator[RemotePath]:
        """All files below the folder, with what the listing says of them."""
        return self._listed()

    def write(self, source: IO[bytes]) -> None:
        """Make a file of what is in ``source`` take this name, as a whole."""
        store, key = self._store()
        partial = key
        if self.parts[0].removesuffix(":") not in WHOLE_AT_ONCE:
            partial = f"{key.rpartition('/')[0]}/{temporary_name('.xpsr-')}"
            _asked(lambda: store.makedirs(key.rpartition("/")[0], exist_ok=True))
        _asked(lambda: store.put_file(source.name, partial))
        if partial != key:
            _asked(lambda: store.mv(partial, key))

    def _listed(self, **options: Any) -> Iterator[RemotePath]:
        store, key = self._store()
        try:
            found = _asked(lambda: store.find(key, detail=True, **options))
        except FileNotFoundError:
            return
        for name, about in sorted(found.items()):
            below = name.removeprefix(key).strip("/")
            if below and name != key:
                path = self / below
                path._found = about
                yield path

    def _store(self) -> tuple[Any, str]:
        """The store, and the name of the file in it."""
        try:
            import fsspec
        except ImportError:
            raise ConfigError(f"{self} needs fsspec: pip install 'xpsr-sdk[s3]'.") from None
        try:
            # Others may write at the same time, so listings are not kept.
            store, key = fsspec.url_to_fs(str(self), use_listings_cache=False)
        except ImportError as error:  # which says what to install
            raise ConfigError(f"{self} cannot be reached: {error}.") from None
        except ValueError as error:
            kind = self.parts[0].removesuffix(":")
            known = kind in fsspec.available_protocols()
            reason = str(error) if known else f"fsspec knows no kind of store with the name {kind!r}"
            raise ConfigError(f"{self} cannot be reached: {reason}.") from None
        except OSError as error:  # some kinds of stores connect at once
            raise StoreError(None, _words(error)) from error
        return store, key


class StoreError(XPSRError, OSError):
    """A store refuses: there are no credentials, no such bucket, or no way to it."""

    def __str__(self) -> str:
        return visible(f"The store of a URL cannot be used: {self.strerror}")


def _words(error: Exception) -> str:
    """What a store says: the names of its client's own exceptions tell nothing to people."""
    told = one_line(error)
    return told if isinstance(error, OSError) else told.removeprefix(f"{type(error).__name__}: ")


def _asked(call: Callable[[], Found]) -> Found:
    """What the store answers. What it refuses for the moment is tried again.

    Raises:
        OSError: It refuses, whatever its client raises.
    """
    for wait in (*WAITS, None):
        try:
            return call()
        except tuple(FINAL) as error:
            code = next(number for kind, number in FINAL.items() if isinstance(error, kind))
            raise OSError(code, os.strerror(code)) from error
        except Exception as error:
            if wait is None or not isinstance(error, OSError):
                raise StoreError(None, _words(error)) from error
            time.sleep(wait)
    raise AssertionError
