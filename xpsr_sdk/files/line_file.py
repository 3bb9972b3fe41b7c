"""Text files that grow line by line: logs, and figures that were computed."""

from __future__ import annotations

import time
from pathlib import Path

from xpsr_sdk.errors import ConfigError
from xpsr_sdk.files.remote import RemotePath
from xpsr_sdk.files.writing import write_whole

SECONDS = 60.0
"""How often a file in a bucket is sent."""


class LineFile:
    """A text file to which lines are added at once. Several processes may add to a file of this machine.

    Nothing can be added to a file in a bucket. It is sent as a whole, once a minute and by ``close``.

    Args:
        file: The file. Its folder is made if it is missing.

    Raises:
        OSError: It cannot be read or written.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._whole, self._sent, self._is_sent = b"", time.monotonic(), True
        if not isinstance(file, RemotePath):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.open("a").close()
        elif file.exists():
            self._whole = file.read_bytes()

    def lines(self) -> list[str]:
        """The lines of the file. A last one that was cut off by a kill is among them, and what is added begins anew."""
        content = self._whole if isinstance(self.file, RemotePath) else self.file.read_bytes()
        if content and not content.endswith(b"\n"):
            self.add("")
        return content.decode(errors="replace").split("\n")

    def add(self, line: str) -> None:
        """Add a line.

        Raises:
            OSError: It cannot be written.
        """
        content = f"{line}\n".encode(errors="backslashreplace")
        if not isinstance(self.file, RemotePath):
            with self.file.open("ab") as opened:
                opened.write(content)
            return
        self._whole, self._is_sent = self._whole + content, False
        if time.monotonic() - self._sent >= SECONDS:
            self.close()

    def close(self) -> None:
        """Send what was not sent yet. Lines may still be added.

        Raises:
            ConfigError: It cannot be written.
        """
        if not self._is_sent:
            write_whole(self.file, lambda out: out.write(self._whole), ConfigError)
            self._sent, self._is_sent = time.monotonic(), True
