"""The upscaler of models that were trained on bicubically enlarged photos, such as XPSR's published checkpoints."""

from __future__ import annotations

from torch import Tensor

from xpsr_sdk.contracts import Options


class BicubicUpscaler:
    """Leaves the photo as it is, because the SDK resizes the result of every upscaler to the target size bicubically.

    See ``xpsr_sdk.Upscaler`` for the contract.
    """

    class Config(Options):
        """No options."""

    scale = 1
    halo = 0

    def __init__(self, config: Config | None = None) -> None:
        pass

    def upscale(self, image: Tensor) -> Tensor:
        """The same image, B 3 h w in [0, 1]."""
        return image.clone()

    def unload(self) -> None:
        """Do nothing, since this upscaler holds no memory."""
