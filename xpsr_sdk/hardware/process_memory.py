"""The memory of this process: what the system's limit leaves it, and the most that it held at once.

Python's ``resource`` module, which tells both, exists on Linux and macOS alone: it is imported where it is used.
"""

from __future__ import annotations

import sys

import psutil


def free_address_space() -> int | None:
    """Bytes that the limit on addresses (``ulimit -v``) leaves; None: there is no limit, or no such limit here."""
    if sys.platform == "win32":
        return None
    import resource

    most, _ = resource.getrlimit(resource.RLIMIT_AS)
    if most == resource.RLIM_INFINITY:
        return None
    return int(most - psutil.Process().memory_info().vms)


def peak_resident_bytes() -> int:
    """The most bytes of physical memory that this process held at once."""
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 2**10
