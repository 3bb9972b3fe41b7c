"""Modules whose public names are imported when they are first used (PEP 562), so that importing them costs nothing."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module


def homes_of(names_in: Mapping[str, str]) -> dict[str, str]:
    """The module that each name is imported from.

    Args:
        names_in: For each module below ``xpsr_sdk``, the names that it offers, with spaces between: what it defines, or
            modules below it.
    """
    return {name: f"xpsr_sdk.{module}" for module, names in names_in.items() for name in names.split()}


def lazy_names(module: str, home_of: Mapping[str, str]) -> Callable[[str], object]:
    """The ``__getattr__`` of ``module``: imports a name from its home, once."""

    def __getattr__(name: str) -> object:
        if name not in home_of:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        with _without_warnings_of_bitsandbytes():
            home = import_module(home_of[name])
            value = vars(home)[name] if name in vars(home) else import_module(f"{home.__name__}.{name}")
        vars(sys.modules[module])[name] = value
        return value

    return __getattr__


@contextmanager
def _without_warnings_of_bitsandbytes() -> Iterator[None]:
    """Within the block, bitsandbytes does not tell on standard error which of its kernels it lacks: diffusers imports
    it even if nobody asks for it.
    """
    logger = logging.getLogger("bitsandbytes")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
