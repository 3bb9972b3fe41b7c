"""What worker processes share."""

from __future__ import annotations

import multiprocessing
import os
import threading
from multiprocessing.connection import wait


def end_with_parent() -> None:
    """Make this process end when the process that started it has ended, even if that one was killed.

    A pool's workers hold both ends of the pipe that their tasks come through, so that they would wait for ever.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_after, args=(parent.sentinel,), daemon=True).start()


def _end_after(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)  # not sys.exit, which would end this thread alone
