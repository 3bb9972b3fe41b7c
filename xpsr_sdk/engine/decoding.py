"""From clean latents to the image, with the colours of the input."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from xpsr_sdk.engine.color import correct_color
from xpsr_sdk.engine.networks import Networks
from xpsr_sdk.engine.prepared import PreparedPhoto


def decode_latents(
    photos: Sequence[PreparedPhoto], latents: Tensor, upscaled: Tensor, resized: Tensor, networks: Networks
) -> Tensor:
    """The images, B 3 H W in [0, 1].

    Args:
        photos: Whose bit depth and colour correction count.
        latents: B C h w.
        upscaled: What the upscaler made of the photos, B 3 H W in [0, 1] (float32).
        resized: The photos themselves, resized bicubically, likewise: their colours are kept.
        networks: Their backbone decodes.
    """
    return finish((networks.backbone.decode(latents, upscaled).float() + 1) / 2, photos, resized)


def finish(images: Tensor, photos: Sequence[PreparedPhoto], resized: Tensor) -> Tensor:
    """Images, B 3 H W, rounded to the levels of their photos, with the colours of those; in [0, 1]."""
    corrected = []
    for image, reference, photo in zip(images.split(1), resized.split(1), photos, strict=True):
        # Rounded (to 8 bits) before the colours are corrected, as the published code does: adain may amplify.
        highest = photo.picture.max_level
        rounded = (image.clamp(0, 1) * highest).round() / highest
        corrected.append(correct_color(rounded, reference, photo.settings.color))
    return torch.cat(corrected)
