"""From clean latents to the image, with the colours of the input."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from xpsr_sdk.engine.color import correct_color
from xpsr_sdk.engine.networks import Networks
from xpsr_sdk.engine.prepared import PreparedPhoto
from xpsr_sdk.plugin_system.answers import blamed_on, checked_tensor


def decode_latents(
    photos: Sequence[PreparedPhoto], latents: Tensor, upscaled: Tensor, resized: Tensor, networks: Networks
) -> Tensor:
    """Decode latents to images, B 3 H W in [0, 1], with the colours of the photos.

    Args:
        photos: The photos, with their bit depth and colour correction.
        latents: B C h w.
        upscaled: The photos, enlarged by the upscaler, B 3 H W in [0, 1] (float32).
        resized: The photos, enlarged bicubically, of the same shape. The images get their colours.
        networks: The networks, whose backbone decodes.

    Raises:
        BrokenPlugin: The backbone failed, or gave something else than its contract promises.
        NonFiniteResult: It gave NaN or infinity.
    """
    with blamed_on("backbone", networks.backbone):
        decoded = networks.backbone.decode(latents, upscaled)
    images = checked_tensor(
        "backbone", networks.backbone, decoded, "decoded images", upscaled.shape, device=upscaled.device
    )
    return finish((images.float() + 1) / 2, photos, resized)


def finish(images: Tensor, photos: Sequence[PreparedPhoto], resized: Tensor) -> Tensor:
    """Round images, B 3 H W, to the bit depth of their photos, and correct their colours. Returns B 3 H W in [0, 1]."""
    corrected = []
    for image, reference, photo in zip(images.split(1), resized.split(1), photos, strict=True):
        # The published code rounds before it corrects colours. The order matters, since adain may amplify differences.
        highest = photo.picture.max_level
        rounded = (image.clamp(0, 1) * highest).round() / highest
        corrected.append(correct_color(rounded, reference, photo.settings.color))
    return torch.cat(corrected)
