"""The mean difference of gradients, which is large where edges are blurred or moved."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from xpsr_sdk import Options


class MyPluginMetric:
    """See ``xpsr_sdk.Metric`` for the contract."""

    class Config(Options):
        """The options: checked before the class is built, and shown by ``xpsr plugins show``."""

        step: int = Field(1, ge=1, le=8, description="Distance of the two pixels of a gradient.")

    needs_reference = True
    lower_is_better = True

    def __init__(self, config: Config | None = None) -> None:
        self.config = config or self.Config()
        self.min_side = self.config.step + 1
        # Everything that changes the figures. A metric with weights adds their SHA-256 here.
        self.details = f"mean difference of gradients over {self.config.step} pixels, in gray levels of 255; version 1"

    def measure(self, images: Tensor, references: Tensor) -> Tensor:
        """Measure photos, B 3 H W in [0, 1]. Returns one figure for each photo, B."""
        difference = 255 * (images - references)
        step = self.config.step
        down = (difference[..., step:, :] - difference[..., :-step, :]).abs().mean(dim=(1, 2, 3))
        across = (difference[..., step:] - difference[..., :-step]).abs().mean(dim=(1, 2, 3))
        return (down + across) / 2
