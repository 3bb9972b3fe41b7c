"""What logs of ``xpsr upscale --log`` say of restored photos: how long each took, and which prompts were used."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from xpsr_sdk.errors import ConfigError


@dataclass(frozen=True)
class LoggedPhoto:
    """A restored photo.

    Attributes:
        seconds: How long it took.
        megapixels: How large the result is.
        high: The content prompt, if there was one.
        low: The quality prompt, if there was one.
    """

    seconds: float
    megapixels: float
    high: str | None
    low: str | None


def read_logs(files: Sequence[Path]) -> dict[Path, LoggedPhoto]:
    """The restored photos of logs, by their file; the last line about a file counts. Other lines are left out.

    Raises:
        ConfigError: A log cannot be read.
    """
    found = {}
    for file in files:
        try:
            lines = file.read_text(encoding="utf-8", errors="replace").split("\n")
        except OSError as error:
            raise ConfigError(f"The log {file} cannot be read: {error.strerror}.") from error
        for line in lines:
            try:
                record = json.loads(line)
                if record["status"] == "restored":
                    size = record["width"] * record["height"] / 1e6
                    photo = LoggedPhoto(record["seconds"], size, record.get("high"), record.get("low"))
                    found[Path(record["result"]).resolve()] = photo
            except (ValueError, KeyError, TypeError):
                continue
    return found


def seconds_a_megapixel(files: Mapping[str, Path], logged: Mapping[Path, LoggedPhoto]) -> float | None:
    """The mean time of a method's photos; None where no log mentions them."""
    known = [logged[path.resolve()] for path in files.values() if path.resolve() in logged]
    size = sum(photo.megapixels for photo in known)
    return sum(photo.seconds for photo in known) / size if size else None
