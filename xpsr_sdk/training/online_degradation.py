"""Online degradation: photos without an LR image are degraded and described when they are drawn."""

from __future__ import annotations

import torch
from torch import Tensor

from xpsr_sdk.contracts import DegradationModel, Item, PromptProvider, Prompts
from xpsr_sdk.data.images import to_image
from xpsr_sdk.errors import TrainingError
from xpsr_sdk.plugin_system.degrading import degraded
from xpsr_sdk.prompts.describe import describe


class OnlineDegrader:
    """Combines a degradation model and the provider that describes its results into a ``Degrader``."""

    def __init__(self, degradation: DegradationModel, provider: PromptProvider) -> None:
        self.degradation, self.provider = degradation, provider

    def degrade(self, hr: Tensor, generator: torch.Generator) -> Tensor:
        """Degrade an image, 1 3 H W in [0, 1]. Returns 1 3 H/s W/s."""
        scale = self.degradation.scale
        if hr.shape[-1] % scale:
            raise TrainingError(f"crop is {hr.shape[-1]}: it must be a multiple of the degradation's scale, {scale}.")
        return degraded(self.degradation, hr, [generator])

    def quality(self, image: Tensor) -> Prompts:
        """The provider's description of 1 3 H W in [0, 1], or why it failed."""
        return describe(self.provider, [Item(to_image(image))], ["low"])[0]
