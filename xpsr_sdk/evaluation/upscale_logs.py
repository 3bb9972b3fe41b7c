"""What logs of ``xpsr upscale --log`` say of restored photos: their time and memory, and which prompts were used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from xpsr_sdk.errors import ConfigError, XPSRError
from xpsr_sdk.files.reading import json_lines, read_bytes
from xpsr_sdk.files.remote import place

LARGEST = 2**30
"""Bytes of a log that is read."""


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


class _Record(BaseModel):
    """What is read of a line about a restored photo."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    status: Literal["restored"]
    result: str
    width: Annotated[int, Field(ge=1, lt=2**32)]
    height: Annotated[int, Field(ge=1, lt=2**32)]
    seconds: Annotated[float, Field(ge=0)]
    peak_memory: float | None = None
    high: str | None = None
    low: str | None = None


def read_logs(files: Sequence[Path]) -> dict[Path, LoggedPhoto]:
    """The restored photos of logs, by their file; the last line about a file counts. Other lines are left out.

    Raises:
        ConfigError: A log cannot be read.
    """
    found = {}
    for file in files:
        for values in json_lines(read_bytes(file, ConfigError, LARGEST).decode(errors="replace").split("\n")):
            try:
                record = _Record.model_validate(values)
                result = place(record.result).resolve()
            except (ValidationError, XPSRError, ValueError, OSError):
                continue
            size = record.width * record.height / 1e6
            found[result] = LoggedPhoto(record.seconds, size, record.peak_memory, record.high, record.low)
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
