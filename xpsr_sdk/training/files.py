"""Turns errors of writing files into errors of training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from xpsr_sdk.errors import TrainingError, one_line


@contextmanager
def writing(target: Path) -> Iterator[None]:
    """Turn an error in the block into a ``TrainingError`` about ``target``."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:  # a full disk is the last two in torch and safetensors
        raise TrainingError(f"{target} cannot be written: {one_line(error)}") from error
