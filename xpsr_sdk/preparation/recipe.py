"""The recipe: how a photo is turned into training samples."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from xpsr_sdk.config import Component


@dataclass(frozen=True)
class Recipe:
    """What becomes of a photo. It depends on the photo's bytes and on this alone.

    Attributes:
        degradation: What makes the LR images; None: none are made, they are degraded as training draws them.
        prompt_provider: Who describes both sides.
        upscaler: What enlarges the LR images ahead, for a model that is trained with it; None: they are enlarged as
            training draws them, which takes long where the upscaler is a network.
        sharpen: Whether photos are sharpened before anything else, as Real-ESRGAN's are (arXiv 2107.10833, section
            4.1): the HR images are then sharper than the photos.
        crop: Side of the crops that photos are cut into, in pixels; None: photos stay whole.
        crops_a_photo: The most crops of a photo, drawn at random; None: all crops that fit beside one another.
        variants: Degradations of each.
        seed: Of degradations and crops.
    """

    degradation: Component | None = "realesrgan"
    prompt_provider: Component = "measured"
    upscaler: Component | None = None
    sharpen: bool = False
    crop: int | None = None
    crops_a_photo: int | None = None
    variants: int = 1
    seed: int = 0

    def as_json(self) -> dict[str, Any]:
        """The recipe as it comes back from JSON."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return plain
