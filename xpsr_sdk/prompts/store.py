"""Prompts of many images in one SQLite file, by the content of the image, who was asked, and what.

Any number of processes of one machine may read and write it at the same time. A process that is killed loses the
transaction that it was in; a file on a network drive should have one writer.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from xpsr_sdk.contracts import PromptKey, PromptLevel
from xpsr_sdk.errors import ConfigError

STORE_NAME = "prompts.sqlite"
"""What a folder's store is called."""
APPLICATION_ID = 0x78707372
"""Identifies, in the head of the file, a store of this SDK ("xpsr")."""
WAIT = 60
"""Seconds that a process waits for another one's transaction."""
EXAMPLES = 20
"""The most conflicts of two stores that are listed one by one."""
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
OF_KEY = "sha256 = ? AND level = ? AND provider = ? AND model = ? AND question = ?"


class StoredPrompt(NamedTuple):
    """A description of an image's content, by the hash of its file; no text: the provider does not offer the level."""

    sha256: str
    level: PromptLevel
    key: PromptKey
    text: str | None
    source: str


class SeenImage(NamedTuple):
    """Where a content was found: the path below the store's folder, with what tells whether the file has changed.

    As everywhere in Python, bytes of a path that are no UTF-8 are half surrogates (``os.fsdecode``).
    """

    path: str
    size: int
    mtime_ns: int
    sha256: str

    def is_still(self, status: os.stat_result) -> bool:
        """Whether the file with that status is the same as then."""
        return (self.size, self.mtime_ns) == (status.st_size, status.st_mtime_ns)


class Conflict(NamedTuple):
    """A photo that two stores describe differently under the same key, and what each says."""

    photo: str
    level: PromptLevel
    kept: str | None
    left: str | None


@dataclass
class Merged:
    """What became of the prompts of another store.

    Attributes:
        added: How many were added.
        known: How many were there already, with the same text.
        conflicts: How many were there with another text, which was kept.
        examples: The first of these.
    """

    added: int = 0
    known: int = 0
    conflicts: int = 0
    examples: list[Conflict] = field(default_factory=list)


class PromptStore:
    """A file of prompts. It is opened at the first use, once in each process.

    Args:
        file: The file.
        writable: Whether prompts are added; the file is then made if there is none. Without it, a file that is
            missing is an empty store.

    Raises:
        ConfigError: From every method: the file is no store of prompts, or cannot be read or written.
    """

    def __init__(self, file: Path, writable: bool = False) -> None:
        self.file, self.writable = file, writable
        self._connection: sqlite3.Connection | None = None
        self._process = 0

    def __getstate__(self) -> dict[str, object]:
        return {**vars(self), "_connection": None}  # another process opens its own

    def add(self, prompts: Iterable[StoredPrompt], images: Iterable[SeenImage]) -> None:
        """Store them in one transaction: all or none. What is there already under the same key stays."""
        rows = [(p.sha256, p.level, *_columns(p.key), p.text, p.source) for p in prompts]
        with self._connected() as connection, connection:
            connection.executemany(INSERT_PROMPT, rows)
            connection.executemany(INSERT_IMAGE, map(_image_row, images))

    def merge(self, other: PromptStore) -> Merged:
        """Add what another store holds, in one transaction and in its order: it counts as newer than what is here.

        What is here already under the same key stays. Of the other's images those are known afterwards whose files are
        found, unchanged, at their paths below the other store's folder or this one's.

        Raises:
            ConfigError: Also: the other store is missing, damaged, or this one.
        """
        if not other.file.is_file():
            raise ConfigError(f"There is no store of prompts {other.file}.")
        if self.file.exists() and self.file.samefile(other.file):
            raise ConfigError(f"{other.file} is the store that others are merged into: name another one.")
        other.image_count()  # what is no store is told before anything is made
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
        """Whether that content was described at that level, with that key."""
        return bool(self._rows(f"SELECT 1 FROM prompts WHERE {OF_KEY}", sha256, level, *_columns(key)))

    def newest(self, sha256: str, level: PromptLevel) -> StoredPrompt | None:
        """The prompt of that level that was stored last for that content, whoever gave it."""
        newest = "WHERE sha256 = ? AND level = ? AND text IS NOT NULL ORDER BY id DESC LIMIT 1"
        query = f"SELECT {COLUMNS} FROM prompts {newest}"
        for content, of_level, provider, model, question, text, source in self._rows(query, sha256, level):
            return StoredPrompt(content, of_level, PromptKey(provider, model, question), text, source)
        return None

    def text_of(self, photo: Path, level: PromptLevel) -> str | None:
        """The text that was stored last for an image file: the file is read if it is not as it was then."""
        if not self.file.is_file():
            return None
        status, seen = photo.stat(), self.seen(self.name_of(photo))
        if seen is None or not seen.is_still(status):
            found = self.newest(hashlib.sha256(photo.read_bytes()).hexdigest(), level)
        else:
            found = self.newest(seen.sha256, level)
        return found.text if found else None

    def name_of(self, photo: Path) -> str:
        """The path of an image below the store's folder, or else the whole path."""
        path, folder = Path(os.path.abspath(photo)), Path(os.path.abspath(self.file.parent))
        return (path.relative_to(folder) if path.is_relative_to(folder) else path).as_posix()

    def seen(self, path: str) -> SeenImage | None:
        """What was at that path, below the store's folder, when it was described."""
        rows = self._rows("SELECT * FROM images WHERE path = ?", _path_column(path))
        return next(map(_image, rows), None)

    def images(self, limit: int) -> list[SeenImage]:
        """The first images, in the order of their paths."""
        return [*map(_image, self._rows("SELECT * FROM images ORDER BY path LIMIT ?", limit))]

    def image_count(self) -> int:
        """How many images were described."""
        return sum(count for (count,) in self._rows("SELECT count(*) FROM images"))

    def close(self) -> None:
        """Close the file. The last writer leaves a single complete file, which can be read on read-only media too."""
        if self._connection is not None and self._process == os.getpid():
            if self.writable:
                with suppress(sqlite3.OperationalError):  # another process is at it, and will do so
                    self._connection.executescript("PRAGMA busy_timeout = 0; PRAGMA journal_mode = DELETE;")
            self._connection.close()
        self._connection = None

    def _found(self, other: PromptStore) -> Iterator[SeenImage]:
        """The images of another store whose files are here, by their names in this one."""
        for image in map(_image, other._stream("SELECT * FROM images")):
            for folder in (other.file.parent, self.file.parent):
                with suppress(OSError):
                    if image.is_still((folder / image.path).stat()):
                        yield image._replace(path=self.name_of(folder / image.path))
                        break

    def _name_of(self, sha256: str) -> str:
        """Where a content was found, or, if that is not known, its hash."""
        return next((_image(row).path for row in self._rows("SELECT * FROM images WHERE sha256 = ?", sha256)), sha256)

    def _stream(self, query: str) -> Iterator[tuple[Any, ...]]:
        """Rows one after the other: a store may have more than fit into memory."""
        with self._connected() as connection:
            yield from connection.execute(query)

    def _rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        if not self.writable and not self.file.exists():
            return []
        with self._connected() as connection:
            return connection.execute(query, values).fetchall()

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        """This process's connection: one that came along in a fork is not used."""
        try:
            if self._connection is None or self._process != os.getpid():
                self._connection = _open_to_write(self.file) if self.writable else _open_to_read(self.file)
                self._process = os.getpid()
            yield self._connection
        except (sqlite3.Error, OSError) as error:
            raise ConfigError(f"{self.file} cannot be used as a store of prompts: {error}.") from error


def _path_column(path: str) -> str | bytes:
    """A path as it is stored: as text, or, if that cannot be, as its bytes."""
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
    except sqlite3.OperationalError:  # on a read-only medium, where nothing can be put beside the file
        connection = sqlite3.connect(f"{address}&immutable=1", uri=True, check_same_thread=False)
        _check_owner(connection)
    return connection


def _check_owner(connection: sqlite3.Connection) -> None:
    if connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        raise sqlite3.DatabaseError("it is a database of something else")
    connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
