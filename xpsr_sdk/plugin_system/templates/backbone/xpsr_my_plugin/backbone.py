"""Stable Diffusion whose autoencoder decodes the latents and their mirror image, and averages both.

The two have different errors, which partly cancel: the geometric self-ensemble of Lim et al. (arXiv 1707.02921).
"""

from __future__ import annotations

from typing import Any

from pydantic import Field
from torch import Tensor

from xpsr_sdk import Options
from xpsr_sdk.toolkit import StableDiffusion


class MyPluginBackbone(StableDiffusion):
    """Stable Diffusion 1.x or 2.x with another ``decode``. See ``xpsr_sdk.Backbone`` for the contract.

    ``load`` is inherited. You can also override ``load_autoencoder``, ``encode_text`` or ``encode`` alone. Keep nothing
    but the tokenizer, the text encoder, the autoencoder and the scheduler in the object: a saved model is loaded
    without calling ``load``.
    """

    class Config(Options):
        """The options: stored with the model, and shown by ``xpsr plugins show``."""

        share: float = Field(0.5, ge=0, le=1, description="Share of the mirrored decoding in the result.")

    def __init__(self, config: Config | None = None) -> None:
        self.config: Any = config or self.Config()

    def decode(self, latents: Tensor, upscaled: Tensor) -> Tensor:
        """Decode latents, B C h w, to images, B 3 H W in [-1, 1]. ``upscaled`` is the photo, in [0, 1]."""
        image = super().decode(latents, upscaled)
        mirrored = super().decode(latents.flip(-1), upscaled.flip(-1)).flip(-1)
        return image + self.config.share * (mirrored - image)
