"""From clean latents to the image, with the colours of the input."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from xpsr_sdk.engine.color import correct_color
from xpsr_sdk.engine.networks import Networks
from xpsr_sdk.engine.prepared import PreparedPhoto


def decode_latents(photos: Sequence[PreparedPhoto], latents: Tensor, lr: Tensor, networks: Networks) -> Tensor:
    """The images, B 3 H W in [0, 1].

    Args:
        photos: Whose bit depth and colour correction count.
        latents: B C h w.
        lr: The inputs at the size of the result, B 3 H W in [0, 1].
        networks: Their backbone decodes.
    """
    image = (networks.backbone.decode(latents, lr.to(latents)).float() + 1) / 2
    corrected = []
    for of_one, reference, photo in zip(image.split(1), lr.split(1), photos, strict=True):
        # Rounded (to 8 bits) before the colours are corrected, as the published code does: adain may amplify.
        highest = photo.picture.max_level
        rounded = (of_one.clamp(0, 1) * highest).round() / highest
        corrected.append(correct_color(rounded, reference, photo.settings.color))
    return torch.cat(corrected)
