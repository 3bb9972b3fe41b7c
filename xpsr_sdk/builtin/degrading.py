"""What every built-in degradation does: check its batch, and give 8-bit levels like a file."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from xpsr_sdk.errors import ImageError


def check_image(hr: Tensor, scale: int) -> None:
    """Raise ``ImageError`` unless ``hr`` is a float image, 3 H W, with sides divisible by ``scale``."""
    if hr.ndim != 3 or hr.shape[0] != 3 or not hr.is_floating_point():
        raise ImageError(f"hr image is {_describe(hr)}; a degradation takes floats, 3 x H x W in [0, 1].")
    height, width = hr.shape[-2:]
    if not height or not width or height % scale or width % scale:
        raise ImageError(
            f"hr image is {height} x {width} pixels; both must be positive multiples of the scale, {scale}."
        )


def check_batch(hr: Tensor, generators: Sequence[torch.Generator], scale: int) -> None:
    """Raise ``ImageError`` unless ``hr`` is B such images, B at least 1, with a CPU generator each."""
    if hr.ndim != 4 or not len(hr):
        raise ImageError(f"hr batch is {_describe(hr)}; a degradation takes floats, B x 3 x H x W in [0, 1].")
    check_image(hr[0], scale)
    if len(generators) != len(hr):
        raise ImageError(f"{len(generators)} generators came with an hr batch of {len(hr)} images; give one an image.")
    for index, generator in enumerate(generators):
        if generator.device.type != "cpu":
            raise ImageError(f"generator {index} lives on {generator.device}; degradations draw on the CPU.")


def to_8_bit(image: Tensor) -> Tensor:
    """Clamp to [0, 1] and round to the 256 levels of an 8-bit file."""
    return (image.clamp(0, 1) * 255).round() / 255


def _describe(tensor: Tensor) -> str:
    return f"{tensor.dtype} of shape {tuple(tensor.shape)}"
