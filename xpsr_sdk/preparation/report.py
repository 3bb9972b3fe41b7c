"""The report on photos that were prepared for training."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Outcome:
    """The outcome for one photo. ``Prepared`` describes the fields."""

    samples: int = 0
    failed: str = ""
    cause: str = ""
    flat: int = 0
    unprompted: str = ""

    @property
    def is_final(self) -> bool:
        """Whether the photo alone is the reason for whatever failed, so that another worker would do no better."""
        return not self.unprompted and self.cause in ("", "damaged", "too small", "flat")


@dataclass
class Prepared:
    """The report on all photos.

    Attributes:
        samples: The number of pairs, or of HR images, that were written.
        failed: The photos that could not be used, each with the reason.
        causes: The same photos, each with the reason in one or two words, for counting.
        flat: The photos with crops that were left out because they show no detail, each with the number of crops.
        unprompted: The photos whose samples lack a prompt because the provider failed, each with the reason.
    """

    samples: int = 0
    failed: dict[Path, str] = field(default_factory=dict)
    causes: dict[Path, str] = field(default_factory=dict)
    flat: dict[Path, int] = field(default_factory=dict)
    unprompted: dict[Path, str] = field(default_factory=dict)

    def add(self, photo: Path, outcome: Outcome) -> None:
        """Add the outcome of a photo."""
        self.samples += outcome.samples
        if outcome.failed:
            self.failed[photo], self.causes[photo] = outcome.failed, outcome.cause
        if outcome.flat:
            self.flat[photo] = outcome.flat
        if outcome.unprompted:
            self.unprompted[photo] = outcome.unprompted

    def in_order(self) -> Prepared:
        """The same report with the photos in the order of their names, whatever was finished first."""
        return Prepared(
            self.samples,
            dict(sorted(self.failed.items())),
            dict(sorted(self.causes.items())),
            dict(sorted(self.flat.items())),
            dict(sorted(self.unprompted.items())),
        )
