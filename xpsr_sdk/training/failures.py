"""Counts what fails on the way of images into training, and stops a run of which too much fails."""

from __future__ import annotations

import warnings

from xpsr_sdk.data.samples import Batch
from xpsr_sdk.errors import TrainingError

FEWEST = 100
"""The share that may fail is taken of at least so many images: the first failure of a run is no large share."""


class Failures:
    """What has failed so far, since this process took up the run.

    Args:
        most: The share of the images that may fail in one way, from ``data.max_failed``.

    Attributes:
        images: How many images were drawn.
        replaced: How many could not be used, so that the next one took their place.
        unprompted: How many have no low-level prompt, because the prompt provider failed.
    """

    def __init__(self, most: float) -> None:
        self.most = most
        self.images = self.replaced = self.unprompted = 0

    def add(self, batch: Batch) -> None:
        """Count the failures of a batch; the first failed prompt is told of by a warning.

        Raises:
            TrainingError: The share of images that failed is larger than it may be.
        """
        first = not self.unprompted
        self.images += len(batch.positions)
        self.replaced += batch.replaced
        self.unprompted += len(batch.unprompted)
        if first and batch.unprompted:
            warnings.warn(
                f"An image is trained on without a low-level prompt: {batch.unprompted[0]} Further failures are "
                "counted in the log, as images_unprompted.",
                stacklevel=2,
            )
        allowed = self.most * max(self.images, FEWEST)
        if self.unprompted > allowed:
            self._stop(f"{self.unprompted} have no low-level prompt, the last because {batch.unprompted[-1]}")
        if self.replaced > allowed:
            self._stop(f"{self.replaced} could not be used, as the warnings say.")

    def _stop(self, what: str) -> None:
        raise TrainingError(
            f"Of {self.images} images {what} data.max_failed allows {self.most:.0%}: mend the cause, or allow more."
        )

    def values(self) -> dict[str, float]:
        """What the log says of them."""
        return {"images_replaced": self.replaced, "images_unprompted": self.unprompted}
