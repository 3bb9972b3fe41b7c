"""libvips does not survive a fork: a process that was forked from one that used it would wait for ever."""

from __future__ import annotations

import os

from xpsr_sdk.errors import ConfigError

_used_in: int | None = None
"""The process that used libvips first."""


def check_not_forked() -> None:
    """Call this before pixels are computed.

    Raises:
        ConfigError: This process was forked from one that has computed some.
    """
    global _used_in
    _used_in = _used_in or os.getpid()
    if _used_in != os.getpid():
        raise ConfigError(
            "This process was forked from one that has read photos, and cannot read any: start processes by the method "
            "'spawn' or 'forkserver' (multiprocessing.get_context('spawn')), and let each worker of a server build its "
            "own pipeline (gunicorn: without --preload)."
        )
