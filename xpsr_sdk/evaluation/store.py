"""Figures that were computed before, in a file: by the content of the photos, and by what exactly was computed."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from pathlib import Path

from xpsr_sdk import __version__
from xpsr_sdk.errors import ConfigError
from xpsr_sdk.files.line_file import LineFile
from xpsr_sdk.files.reading import check_regular, json_lines


class ScoreStore:
    """A file of figures, one JSON object in each line, to which new ones are added at once.

    A key holds the SHA-256 of both files, the crop, the version of this package, the metric's plug-in with its version,
    and ``Metric.details``, which names the weights. So a figure is computed again if one of these has changed. What
    they do not tell, as another version of torch or another device, changes no key. A line that was cut off by a kill
    is ignored.

    Args:
        file: The file; None keeps figures in memory only.

    Raises:
        ConfigError: The file cannot be read or written.
    """

    def __init__(self, file: Path | None) -> None:
        self._file: LineFile | None = None
        self._figures: dict[str, float] = {}
        if file is None:
            return
        try:
            if file.exists():
                check_regular(file, ConfigError)
            self._file = LineFile(file)
            lines = self._file.lines()
        except OSError as error:
            raise ConfigError(f"The file of figures {file} cannot be used: {error.strerror}.") from error
        for line in json_lines(lines):
            with suppress(KeyError, TypeError, ValueError):  # a line that holds no figure
                self._figures[line["key"]] = float(line["figure"])

    def __getstate__(self) -> dict[str, object]:
        return {"_file": None, "_figures": self._figures}  # a single process writes the file

    def get(self, key: str) -> float | None:
        """The figure of a key, if it is known."""
        return self._figures.get(key)

    def add(self, key: str, figure: float, **about: str) -> None:
        """Keep a figure; ``about`` is written beside it, for people who read the file."""
        self._figures[key] = figure
        if self._file is not None:
            self._file.add(json.dumps({"key": key, "figure": repr(figure), **about}))

    def close(self) -> None:
        """Send figures to a bucket that were not sent yet."""
        if self._file is not None:
            self._file.close()


def score_key(component: str, details: str, crop: int, restored: str, reference: str | None) -> str:
    """The key of a figure, by the SHA-256 of the files, and by the plug-in's part with its version."""
    parts = [__version__, component, details, crop, restored, reference]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
