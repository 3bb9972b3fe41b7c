"""A camera with larger pixels and a noisy sensor."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import avg_pool2d

from xpsr_sdk import Options
from xpsr_sdk.toolkit import Dice, check_batch, to_8_bit


class MyPluginDegradation:
    """See ``xpsr_sdk.DegradationModel`` for the contract."""

    class Config(Options):
        """The options: checked before the class is built, and shown by ``xpsr plugins show``."""

        scale: int = Field(4, ge=1, le=8, description="How many times smaller the result is.")
        max_noise: float = Field(
            20, ge=0, le=255, description="Largest standard deviation of the noise, levels of 255."
        )

    def __init__(self, config: Config | None = None) -> None:
        self.config = config or self.Config()
        self.scale = self.config.scale

    def __call__(self, hr: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """Degrade images, B 3 H W in [0, 1]. Returns B 3 H/s W/s in [0, 1], rounded to 8-bit levels."""
        check_batch(hr, generators, self.scale)
        return torch.stack([self._degrade(*pair) for pair in zip(hr, generators, strict=True)])

    def _degrade(self, hr: Tensor, generator: torch.Generator) -> Tensor:
        # Each image draws from its own generator, so that its result doesn't depend on the batch or the worker.
        level = Dice(generator).uniform((0, self.config.max_noise / 255))
        lr = avg_pool2d(hr.cpu().float(), self.scale)
        noise = torch.randn(lr.shape, generator=generator)
        return to_8_bit(lr + level * noise).to(hr)
