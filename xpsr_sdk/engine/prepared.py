"""A photo that is ready for the networks: its pixels, its settings, and its encoded prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from xpsr_sdk.data.picture import Picture
from xpsr_sdk.resolved import ResolvedSettings


@dataclass(frozen=True)
class PreparedPhoto:
    """A photo that is ready for the networks.

    Attributes:
        picture: Its pixels.
        settings: Its settings.
        high: The encoded high-level prompt, G 1 T D: G = 2 (negative, positive) with guidance, 1 (positive) without.
            None: there is no diffusion model.
        low: The encoded low-level prompt of the same shape, or None.
        added: What the networks take besides the text, G 1 and more dimensions each.
        latents: Start latents, 1 C h w. None: sampling starts from noise.
    """

    picture: Picture
    settings: ResolvedSettings
    high: Tensor | None
    low: Tensor | None
    latents: Tensor | None
    added: Mapping[str, Tensor] = field(default_factory=dict)


def batches_of_one_shape(photos: Sequence[PreparedPhoto]) -> list[list[int]]:
    """Group photos that can go through the networks together. Returns lists of their indices.

    The prompts in a batch must have the same shape, and either all photos or none must have a low-level prompt.
    """
    batches: dict[Any, list[int]] = {}
    for i, photo in enumerate(photos):
        shapes = tuple(text is not None and text.shape for text in (photo.high, photo.low))
        batches.setdefault(shapes, []).append(i)
    return list(batches.values())
