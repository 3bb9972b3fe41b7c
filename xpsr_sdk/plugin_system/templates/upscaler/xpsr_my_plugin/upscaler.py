"""Bicubic enlargement after an unsharp mask."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate, pad

from xpsr_sdk import Options


class MyPluginUpscaler:
    """See ``xpsr_sdk.Upscaler`` for the contract."""

    class Config(Options):
        """The options: checked before the class is built, and shown by ``xpsr plugins show``."""

        sharpness: float = Field(0.5, ge=0, le=3, description="How much of the fine detail is added once more.")

    scale = 4
    # Pixels of the photo that a pixel of the result looks at in each direction: one by the mask, two by bicubic.
    halo = 3

    def __init__(self, config: Config | None = None) -> None:
        self.config = config or self.Config()

    def upscale(self, image: Tensor) -> Tensor:
        """B 3 h w in [0, 1] to B 3 4h 4w, in the dtype and on the device of the image."""
        exact = image.float()
        blurred = avg_pool2d(pad(exact, (1, 1, 1, 1), mode="replicate"), kernel_size=3, stride=1)
        sharp = exact + self.config.sharpness * (exact - blurred)
        return interpolate(sharp, scale_factor=self.scale, mode="bicubic").clamp(0, 1).to(image)

    def unload(self) -> None:
        """It holds no memory. One with weights forgets them here, and loads them again in ``upscale``."""
