"""Errors while a run writes a file or a folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from xpsr_sdk.errors import TrainingError, one_line


@contextmanager
def writing(target: Path) -> Iterator[None]:
    """Turn what goes wrong in the block into a ``TrainingError`` about ``target``."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:  # the last two: a full disk in torch and in safetensors
        raise TrainingError(f"{target} cannot be written: {one_line(error)}") from error
