"""Worker processes end with the process that started them."""

from __future__ import annotations

import multiprocessing
import os
import threading
from multiprocessing.connection import wait


def end_with_parent() -> None:
    """Make this process end when the process that started it has ended, even if that one was killed.

    Without this, workers of a pool would wait forever, because they hold both ends of the pipe with their tasks.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_after, args=(parent.sentinel,), daemon=True).start()


def _end_after(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)  # sys.exit would end only this thread
