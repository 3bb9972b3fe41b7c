"""What logs of ``xpsr upscale --log`` say of restored photos: their time and memory, and which prompts were used."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from xpsr_sdk.errors import ConfigError
from xpsr_sdk.files.remote import place


@dataclass(frozen=True)
class LoggedPhoto:
    """A restored photo.

    Attributes:
        seconds: How long it took.
        megapixels: How large the result is.
        memory: The peak memory of the run until then, in GiB, if the log tells it.
        high: The content prompt, if there was one.
        low: The quality prompt, if there was one.
    """

    seconds: float
    megapixels: float
    memory: float | None
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
                    memory = record.get("peak_memory")
                    photo = LoggedPhoto(record["seconds"], size, memory, record.get("high"), record.get("low"))
                    found[place(record["result"]).resolve()] = photo
            except (ValueError, KeyError, TypeError):
                continue
    return found


@dataclass(frozen=True)
class Costs:
    """What the photos of a method took.

    Attributes:
        seconds: Mean seconds per megapixel of the results.
        memory: The peak memory in GiB, if the logs tell it.
    """

    seconds: float
    memory: float | None


def costs(files: Mapping[str, Path], logged: Mapping[Path, LoggedPhoto]) -> Costs | None:
    """What the photos of a method took; None where no log mentions them."""
    known = [logged[path.resolve()] for path in files.values() if path.resolve() in logged]
    size = sum(photo.megapixels for photo in known)
    if not size:
        return None
    memory = max((photo.memory for photo in known if photo.memory is not None), default=None)
    return Costs(sum(photo.seconds for photo in known) / size, memory)
