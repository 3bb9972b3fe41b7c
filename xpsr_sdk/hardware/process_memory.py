"""The memory of this process: how much the system's limit leaves free, and the peak so far, there and on a GPU.

Python's ``resource`` module exists only on Linux and macOS, so it is imported where it is used.
"""

from __future__ import annotations

import sys

import psutil


def free_address_space() -> int | None:
    """Bytes that the limit on the address space (``ulimit -v``) leaves free. None: there is no such limit."""
    if sys.platform == "win32":
        return None
    import resource

    most, _ = resource.getrlimit(resource.RLIMIT_AS)
    if most == resource.RLIM_INFINITY:
        return None
    return int(most - psutil.Process().memory_info().vms)


def peak_resident_bytes() -> int:
    """The peak of the physical memory of this process, in bytes."""
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 2**10


def peak_memory(device: object) -> float:
    """The peak so far, in GiB, of the memory of a GPU or, for another device, of this process."""
    if str(device).startswith("cuda"):
        import torch

        return torch.cuda.max_memory_allocated(str(device)) / 2**30
    return peak_resident_bytes() / 2**30
