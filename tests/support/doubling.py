"""A work whose workers fail on purpose."""

from __future__ import annotations

import os
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from xpsr_sdk import ConfigError


@dataclass(frozen=True)
class Doubling:
    """Doubles numbers, and writes to a folder what was warmed up and done. Some numbers are special."""

    notes: Path
    broken_at: int | None = None
    pause: float = 0.0
    begins_with: int = 1  # no number is done before so many workers are warm: a machine may start them slowly

    @contextmanager
    def warm(self) -> Iterator[Callable[[int], tuple[int, int]]]:
        if self.broken_at == 0:
            raise ConfigError("There is no such model.")
        (self.notes / f"warm-{os.getpid()}").touch()
        yield self.double
        (self.notes / f"closed-{os.getpid()}").touch()

    def double(self, number: int) -> tuple[int, int]:
        with (self.notes / f"tried-{number}").open("a") as file:
            file.write(f"{os.getpid()}\n")
        if number == self.broken_at:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(self.pause)
        while self.warmed() < self.begins_with:
            time.sleep(0.01)
        if number == 7:
            raise ValueError("seven is no number")
        if number == 8:
            warnings.warn("eight is large", stacklevel=2)
        if number == 9:
            time.sleep(100)
        return 2 * number, os.getpid()

    def tries(self, number: int) -> list[str]:
        return (self.notes / f"tried-{number}").read_text().split()

    def warmed(self) -> int:
        return len(list(self.notes.glob("warm-*")))
