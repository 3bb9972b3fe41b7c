"""Tells whoever waits for a result how far the work is, several times a second on most machines.

It is a context variable and not an argument, as it concerns the innermost loops, and samplers and upscalers lie between
them and whoever waits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Watch = Callable[[str, int, int], None]
"""``watch(stage, done, total)``. The stage is one of a result's ``timings``. At its beginning, ``total`` is 0.

Before each region of a photo, the stage is ``regions``, and ``done`` of ``total`` are restored. In the stage
``upscale``, tiles are counted. In the stage ``denoise``, each evaluation of the model has ``total`` batches of tiles,
and ``done`` counts those of all evaluations. What the function raises ends the work.
"""

_watch: ContextVar[Watch | None] = ContextVar("xpsr_watch", default=None)


@contextmanager
def watched_by(watch: Watch) -> Iterator[None]:
    """Within the block, ``watch`` is called."""
    before = _watch.set(watch)
    try:
        yield
    finally:
        _watch.reset(before)


def tell(stage: str, done: int = 0, total: int = 0) -> None:
    """Call the function that watches, if there is one. See ``Watch``."""
    watch = _watch.get()
    if watch:
        watch(stage, done, total)
