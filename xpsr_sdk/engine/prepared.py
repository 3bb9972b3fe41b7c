"""A photo that is ready for the networks: its pixels, its settings, and its prompts encoded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from xpsr_sdk.data.picture import Picture
from xpsr_sdk.resolved import ResolvedSettings


@dataclass(frozen=True)
class PreparedPhoto:
    """A photo on its way to the networks.

    Attributes:
        picture: Its pixels.
        settings: Its own.
        high: The high-level prompt encoded, G 1 T D: negative then positive with guidance, else positive alone; None:
            there is no model to read it.
        low: The low-level prompt likewise, or None.
        latents: Start latents, 1 C h w, instead of noise.
    """

    picture: Picture
    settings: ResolvedSettings
    high: Tensor | None
    low: Tensor | None
    latents: Tensor | None


def batches_of_one_shape(photos: Sequence[PreparedPhoto]) -> list[list[int]]:
    """Which photos can go through the networks together: their places in ``photos``.

    Texts of one shape make a batch. A photo without a low-level prompt does not go with those that have one.
    """
    batches: dict[Any, list[int]] = {}
    for i, photo in enumerate(photos):
        shapes = tuple(text is not None and text.shape for text in (photo.high, photo.low))
        batches.setdefault(shapes, []).append(i)
    return list(batches.values())
