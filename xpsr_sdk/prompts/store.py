"""Stores prompts of many images in one SQLite file. The key is the image's content, the provider, and the question.

Any number of processes on one machine may read and write the file at the same time. A process that is killed loses
only its current transaction. A file on a network drive should have only one writer.

SQLite needs a file of this machine, so a store that is reached by URL is copied to this machine, and sent back as a
whole: by a writer once a minute and when it is closed. It must have a single writer.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
import tempfile
import time
import weakref
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from xpsr_sdk.contracts import PromptKey, PromptLevel
from xpsr_sdk.errors import ConfigError
from xpsr_sdk.files.reading import check_regular
from xpsr_sdk.files.remote import RemotePath
from xpsr_sdk.files.writing import write_whole

STORE_NAME = "prompts.sqlite"
"""The file name of a folder's store."""
APPLICATION_ID = 0x78707372
"""Marks the file as a store of this SDK, in its header ("xpsr")."""
WAIT = 60
"""Seconds that a process waits for the transaction of another process."""
SENT_EVERY = 60.0
"""Seconds after which a writer sends its copy of a remote store."""
LONGEST = 2**20
"""Bytes of the longest text that is read."""
EXAMPLES = 20
"""At most so many conflicts between two stores are listed one by one."""
SCHEMA = f"""
PRAGMA application_id = {APPLICATION_ID};
CREATE TABLE IF NOT EXISTS prompts (
    id INTEGER PRIMARY KEY,
    sha256 TEXT NOT NULL,
    level TEXT NOT NULL,
    provider TEXT NOT NULL,
    model TEXT NOT NULL,
    question TEXT NOT NULL,
    text TEXT,
    source TEXT NOT NULL,
    UNIQUE (sha256, level, provider, model, question)
);
CREATE TABLE IF NOT EXISTS images (
    path TEXT PRIMARY KEY,
    size INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    sha256 TEXT NOT NULL
) WITHOUT ROWID;
"""


COLUMNS = "sha256, level, provider, model, question, text, source"
INSERT_PROMPT = f"INSERT OR IGNORE INTO prompts ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)"
INSERT_IMAGE = "INSERT OR REPLACE INTO images VALUES (?, ?, ?, ?)"
IMAGES = (
    "SELECT path, size, mtime_ns, sha256 FROM images WHERE typeof(path) IN ('text', 'blob')"
    " AND typeof(size) = 'integer' AND typeof(mtime_ns) = 'integer' AND typeof(sha256) = 'text'"
)
"""SQLite holds values of any type in any column."""
OF_KEY = "sha256 = ? AND level = ? AND provider = ? AND model = ? AND question = ?"


class StoredPrompt(NamedTuple):
    """A description of an image, found by the hash of its file. Text None: the provider does not offer the level."""

    sha256: str
    level: PromptLevel
    key: PromptKey
    text: str | None
    source: str


class SeenImage(NamedTuple):
    """An image file: its path below the store's folder, its hash, and its size and time, which show if it has changed.

    Bytes of a path that are not UTF-8 are lone surrogates, as usual in Python (``os.fsdecode``).
    """

    path: str
    size: int
    mtime_ns: int
    sha256: str

    def is_still(self, status: os.stat_result) -> bool:
        """Whether the file with that status is unchanged."""
        return (self.size, self.mtime_ns) == (status.st_size, status.st_mtime_ns)


class Conflict(NamedTuple):
    """A photo that two stores describe differently under the same key, with both texts."""

    photo: str
    level: PromptLevel
    kept: str | None
    left: str | None


@dataclass
class Merged:
    """The report on a merge with another store.

    Attributes:
        added: The number of prompts that were added.
        known: The number of prompts that were there already, with the same text.
        conflicts: The number of prompts that were there with another text, which was kept.
        examples: The first conflicts.
    """

    added: int = 0
    known: int = 0
    conflicts: int = 0
    examples: list[Conflict] = field(default_factory=list)


class PromptStore:
    """A file of prompts. It is opened at the first use, once in each process.

    Args:
        file: The file.
        writable: Whether prompts will be added. If so, a missing file is created; if not, it counts as an empty store.

    Raises:
        ConfigError: From every method: the file is not a store of prompts, or cannot be read or written.
    """

    def __init__(self, file: Path, writable: bool = False) -> None:
        self.file, self.writable = file, writable
        self._connection: sqlite3.Connection | None = None
        self._process = 0
        self._copy: Path | None = None
        self._sent = time.monotonic()

    def __getstate__(self) -> dict[str, object]:
        return {**vars(self), "_connection": None, "_copy": None}  # another process opens its own connection

    def add(self, prompts: Iterable[StoredPrompt], images: Iterable[SeenImage]) -> None:
        """Store prompts and images in one transaction. Prompts that are stored under the same key already stay."""
        rows = [(p.sha256, p.level, *_columns(p.key), p.text, p.source) for p in prompts]
        with self._connected() as connection, connection:
            connection.executemany(INSERT_PROMPT, rows)
            connection.executemany(INSERT_IMAGE, map(_image_row, images))
        if time.monotonic() - self._sent > SENT_EVERY:
            self._send()

    def merge(self, other: PromptStore) -> Merged:
        """Add the prompts of another store, in one transaction. They count as newer than those in this store.

        If a key is in both stores, the prompt of this store stays. Image files of the other store are added if they are
        found unchanged at their paths, below the folder of the other store or of this one.

        Raises:
            ConfigError: Also if the other store is missing or damaged, or is this store.
        """
        if not other.file.is_file():
            raise ConfigError(f"There is no store of prompts {other.file}.")
        if self.file.exists() and self.file.samefile(other.file):
            raise ConfigError(f"{other.file} is the store that others are merged into: name another one.")
        other.image_count()  # raises an error if it is not a store, before this store is created
        merged = Merged()
        with self._connected() as connection, connection:
            for *key, text, source in other._stream(f"SELECT {COLUMNS} FROM prompts ORDER BY id"):
                if connection.execute(INSERT_PROMPT, (*key, text, source)).rowcount:
                    merged.added += 1
                elif (kept := self._rows(f"SELECT text FROM prompts WHERE {OF_KEY}", *key)[0][0]) == text:
                    merged.known += 1
                else:
                    merged.conflicts += 1
                    if len(merged.examples) < EXAMPLES:
                        merged.examples.append(Conflict(other._name_of(key[0]), key[1], kept, text))
            connection.executemany(INSERT_IMAGE, map(_image_row, self._found(other)))
        return merged

    def has(self, sha256: str, level: PromptLevel, key: PromptKey) -> bool:
        """Whether a prompt with this content, level and key is stored."""
        return bool(self._rows(f"SELECT 1 FROM prompts WHERE {OF_KEY}", sha256, level, *_columns(key)))

    def newest(self, sha256: str, level: PromptLevel) -> StoredPrompt | None:
        """The newest prompt for this content and level, from any provider."""
        newest = "WHERE sha256 = ? AND level = ? AND typeof(text) = 'text' ORDER BY id DESC LIMIT 1"
        query = f"SELECT {COLUMNS} FROM prompts {newest}"
        for content, of_level, provider, model, question, text, source in self._rows(query, sha256, level):
            return StoredPrompt(content, of_level, PromptKey(provider, model, question), text, source)
        return None

    def text_of(self, photo: Path, level: PromptLevel) -> str | None:
        """The newest text for an image file. The file is read only if it has changed since it was stored."""
        if not self._local().is_file():
            return None
        status, seen = photo.stat(), self.seen(self.name_of(photo))
        if seen is None or not seen.is_still(status):
            found = self.newest(hashlib.sha256(photo.read_bytes()).hexdigest(), level)
        else:
            found = self.newest(seen.sha256, level)
        return found.text if found else None

    def name_of(self, photo: Path) -> str:
        """The path of an image relative to the store's folder, or its absolute path if it lies elsewhere."""
        path, folder = _absolute(photo), _absolute(self.file.parent)
        return (path.relative_to(folder) if path.is_relative_to(folder) else path).as_posix()

    def seen(self, path: str) -> SeenImage | None:
        """The image that was stored for a path."""
        rows = self._rows(f"{IMAGES} AND path = ?", _path_column(path))
        return next(map(_image, rows), None)

    def images(self, limit: int) -> list[SeenImage]:
        """The first images, sorted by path."""
        return [*map(_image, self._rows(f"{IMAGES} ORDER BY path LIMIT ?", limit))]

    def image_count(self) -> int:
        """The number of images in the store."""
        return sum(count for (count,) in self._rows("SELECT count(*) FROM images"))

    def close(self) -> None:
        """Close the file. The last writer leaves a single complete file, which can also be read on read-only media."""
        if self.writable:
            self._send()
        if self._connection is not None and self._process == os.getpid():
            if self.writable:
                with suppress(sqlite3.OperationalError):  # another process still has it open, and will do this
                    self._connection.executescript("PRAGMA busy_timeout = 0; PRAGMA journal_mode = DELETE;")
            self._connection.close()
        self._connection = None
        if self._copy is not None:
            shutil.rmtree(self._copy.parent, ignore_errors=True)
            self._copy = None

    def _local(self) -> Path:
        """The file of this machine: the store itself, or the copy of a remote one."""
        if not isinstance(self.file, RemotePath):
            return self.file
        if self._copy is None:
            folder = tempfile.mkdtemp(prefix="xpsr-store-")
            weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
            self._copy = Path(folder, STORE_NAME)
            if self.file.exists():
                self._copy.write_bytes(self.file.read_bytes())
        return self._copy

    def _send(self) -> None:
        """Send the copy of a remote store."""
        if self._copy is None or self._connection is None:
            return
        whole = self._copy.with_name("whole.sqlite")
        whole.unlink(missing_ok=True)
        with closing(sqlite3.connect(whole)) as target:
            self._connection.backup(target)
        write_whole(self.file, lambda file: file.write(whole.read_bytes()), ConfigError)
        self._sent = time.monotonic()

    def _found(self, other: PromptStore) -> Iterator[SeenImage]:
        """The images of another store whose files exist here, with their names in this store."""
        for image in map(_image, other._stream(IMAGES)):
            for folder in (other.file.parent, self.file.parent):
                with suppress(OSError):
                    if image.is_still((folder / image.path).stat()):
                        yield image._replace(path=self.name_of(folder / image.path))
                        break

    def _name_of(self, sha256: str) -> str:
        """The path of an image with this content, or the hash if no path is known."""
        return next((_image(row).path for row in self._rows(f"{IMAGES} AND sha256 = ?", sha256)), sha256)

    def _stream(self, query: str) -> Iterator[tuple[Any, ...]]:
        """Rows one after the other, since a store may be larger than the memory."""
        with self._connected() as connection:
            yield from connection.execute(query)

    def _rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        if not self.writable and not self._local().exists():
            return []
        with self._connected() as connection:
            return connection.execute(query, values).fetchall()

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        """The connection of this process. A connection that was inherited by a fork is not used."""
        try:
            if self._connection is None or self._process != os.getpid():
                file = self._local()
                if file.exists():
                    check_regular(file, ConfigError)
                self._connection = _open_to_write(file) if self.writable else _open_to_read(file)
                self._process = os.getpid()
            yield self._connection
        except UnicodeDecodeError as error:  # also about what is damaged, which SQLite quotes in its message
            where = f"{self.file} cannot be used as a store of prompts"
            raise ConfigError(f"{where}: it is damaged, since it holds text that is not UTF-8.") from error
        except (sqlite3.Error, OSError) as error:
            raise ConfigError(f"{self.file} cannot be used as a store of prompts: {error}.") from error


def _absolute(path: Path) -> Path:
    return path if isinstance(path, RemotePath) else Path(os.path.abspath(path))


def _path_column(path: str) -> str | bytes:
    """A path as it is stored: as text, or as bytes if it is not valid text."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return os.fsencode(path)
    return path


def _image_row(image: SeenImage) -> tuple[str | bytes, int, int, str]:
    return _path_column(image.path), image.size, image.mtime_ns, image.sha256


def _image(row: tuple[Any, ...]) -> SeenImage:
    path, *rest = row
    return SeenImage(os.fsdecode(path), *rest)


def _columns(key: PromptKey) -> tuple[str, str, str]:
    return key.provider, key.model, key.question


def _open_to_write(file: Path) -> sqlite3.Connection:
    file.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(file, timeout=WAIT, check_same_thread=False)
    if connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        _check_owner(connection)
    connection.execute("PRAGMA journal_mode = WAL")  # readers do not wait for writers
    connection.executescript(SCHEMA)
    return connection


def _open_to_read(file: Path) -> sqlite3.Connection:
    address = f"{file.absolute().as_uri()}?mode=ro"
    connection = sqlite3.connect(address, uri=True, timeout=WAIT, check_same_thread=False)
    try:
        _check_owner(connection)
    except sqlite3.OperationalError:  # on a read-only medium, where SQLite cannot write its extra files
        connection = sqlite3.connect(f"{address}&immutable=1", uri=True, check_same_thread=False)
        _check_owner(connection)
    return connection


def _check_owner(connection: sqlite3.Connection) -> None:
    if connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        raise sqlite3.DatabaseError("it is a database of another program")
    others = connection.execute(
        "SELECT count(*) FROM sqlite_master WHERE type NOT IN ('table', 'index') OR sql LIKE 'CREATE VIRTUAL%'"
    )
    if others.fetchone()[0]:  # a view may never end, and a trigger may do anything
        raise sqlite3.DatabaseError("it holds more than the tables of a store")
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LONGEST)
