"""The report on photos that were prepared for training."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Outcome:
    """What became of a photo: see ``Prepared``."""

    samples: int = 0
    failed: str = ""
    cause: str = ""
    flat: int = 0
    unprompted: str = ""


@dataclass
class Prepared:
    """What was done.

    Attributes:
        samples: How many pairs, or HR images, were written.
        failed: The photos that could not be used, each with the reason.
        causes: The same, each with the reason in a word or two, to be counted.
        flat: The photos of which crops were left out because they show nothing, each with how many.
        unprompted: The photos whose samples lack a prompt because the provider failed, each with the reason.
    """

    samples: int = 0
    failed: dict[Path, str] = field(default_factory=dict)
    causes: dict[Path, str] = field(default_factory=dict)
    flat: dict[Path, int] = field(default_factory=dict)
    unprompted: dict[Path, str] = field(default_factory=dict)

    def add(self, photo: Path, outcome: Outcome) -> None:
        """Count what became of a photo."""
        self.samples += outcome.samples
        if outcome.failed:
            self.failed[photo], self.causes[photo] = outcome.failed, outcome.cause
        if outcome.flat:
            self.flat[photo] = outcome.flat
        if outcome.unprompted:
            self.unprompted[photo] = outcome.unprompted
