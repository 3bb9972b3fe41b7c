"""Measures how long each stage of a restoration takes."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from xpsr_sdk.engine.watching import tell


class Clock:
    """Adds up the seconds of named stages.

    Args:
        device: Where the stages compute. At the end of a stage, the clock waits until the device has finished.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._began = time.perf_counter()
        self._seconds: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time the block."""
        tell(name)
        began = time.perf_counter()
        try:
            yield
        finally:
            wait_for(self._device)
            self._seconds[name] += time.perf_counter() - began

    def seconds(self) -> dict[str, float]:
        """The seconds of each stage, and in total."""
        return {**self._seconds, "total": time.perf_counter() - self._began}


def wait_for(device: torch.device) -> None:
    """Wait until the device has finished all work that was queued. On a CPU nothing is queued."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
