"""Reading weights without bars and log lines on standard error, which belongs to the program that calls this package.

What the libraries warn of there, such as tensors that are missing, is checked where weights are read.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging


@contextmanager
def without_bars() -> Iterator[None]:
    """Within the block, transformers and diffusers show no progress of the weights that they read, and no warnings."""
    libraries: tuple[Any, ...] = (diffusers_logging, transformers_logging)
    shown = [library for library in libraries if library.is_progress_bar_enabled()]
    levels = [library.get_verbosity() for library in libraries]
    for library in shown:
        library.disable_progress_bar()
    for library in libraries:
        library.set_verbosity_error()
    try:
        yield
    finally:
        for library, level in zip(libraries, levels, strict=True):
            library.set_verbosity(level)
        for library in shown:
            library.enable_progress_bar()
