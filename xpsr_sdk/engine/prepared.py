"""A photo that is ready for the networks: its pixels, its settings, and its prompts encoded."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from xpsr_sdk.data.picture import Picture
from xpsr_sdk.resolved import ResolvedSettings


@dataclass(frozen=True)
class PreparedPhoto:
    """A photo on its way to the networks.

    Attributes:
        picture: Its pixels.
        settings: Its own.
        high: The high-level prompt encoded, G 1 T D: negative then positive with guidance, else positive alone.
        low: The low-level prompt likewise, or None.
        latents: Start latents, 1 C h w, instead of noise.
    """

    picture: Picture
    settings: ResolvedSettings
    high: Tensor
    low: Tensor | None
    latents: Tensor | None
