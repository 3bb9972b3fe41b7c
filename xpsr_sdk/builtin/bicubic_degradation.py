"""The classical degradation, which is only bicubic downscaling."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from xpsr_sdk.builtin.degradation_tools import check_batch, to_8_bit
from xpsr_sdk.contracts import Options


class BicubicDegradation:
    """Antialiased bicubic downscaling, rounded to 8-bit levels. It uses no random numbers."""

    class Config(Options):
        """Options of ``BicubicDegradation``."""

        scale: int = Field(default=4, ge=1, le=8, description="How many times smaller the result is.")

    def __init__(self, config: Config | None = None) -> None:
        self.config = config or self.Config()
        self.scale = self.config.scale

    @torch.no_grad()
    def __call__(self, hr: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """Downscale B 3 H W in [0, 1] to B 3 H/s W/s in [0, 1], in the device and dtype of ``hr``.

        Raises:
            ImageError: The shape is wrong, a side is not a multiple of s, or there is not one generator per image.
        """
        check_batch(hr, generators, self.scale)
        size = [n // self.scale for n in hr.shape[-2:]]
        # In float32, since sums in half precision are less exact than 8-bit levels.
        lr = F.interpolate(hr.float(), size=size, mode="bicubic", antialias=True)
        return to_8_bit(lr).to(hr.dtype)
