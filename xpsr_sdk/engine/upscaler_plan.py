"""How much memory an upscaler needs for a photo, as far as that can be told without computing."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import nn

from xpsr_sdk.contracts import Upscaler
from xpsr_sdk.engine.memory import activation_bytes, weight_bytes
from xpsr_sdk.library_internals import on_meta
from xpsr_sdk.plugin_system.marks import mark_of


@dataclass(frozen=True)
class UpscalerPlan:
    """An upscaler, and what it needs.

    Attributes:
        name: What it was chosen by, or its class.
        scale: How many times larger its result is, in each direction.
        tile: The longer side of what it enlarges at once, in pixels of the photo.
        weight_bytes: Bytes of the weights of its networks, as they are now.
        feature_bytes: Bytes of the features of its network for one tile in float32. 0 if that is not known.
    """

    name: str
    scale: int
    tile: int
    weight_bytes: int
    feature_bytes: int

    def __str__(self) -> str:
        if self.scale == 1:
            return f"{self.name}, which leaves the photo as it is; it is then resized"
        weights = f", weights {size_in_words(self.weight_bytes)}" if self.weight_bytes else ""
        features = f" ({size_in_words(self.feature_bytes)} of features in float32)" if self.feature_bytes else ""
        return f"{self.name}, {self.scale} times{weights}, tiles of {self.tile} pixels{features}"


def plan_upscaling(upscaler: Upscaler, size: tuple[int, int], side: int) -> UpscalerPlan:
    """What an upscaler needs for a photo of ``size``, width and height, in tiles of ``side`` pixels."""
    networks = _networks_of(upscaler)
    # A tile gets the halo around it, but no more than there is of the photo.
    tile = [min(whole, side + 2 * upscaler.halo) if max(size) > side else whole for whole in size]
    features = 0
    if len(networks) == 1:
        with suppress(Exception):  # a network that takes more than the image
            stand_in = on_meta(networks[0])
            image = torch.empty(1, 3, *tile[::-1], device="meta", dtype=next(stand_in.parameters()).dtype)
            size_of_float = 4 / image.element_size()
            features = int(activation_bytes(lambda: stand_in(image), [stand_in]) * size_of_float)
    mark = mark_of(upscaler)
    return UpscalerPlan(
        name=mark.name if mark else type(upscaler).__name__,
        scale=upscaler.scale,
        tile=max(tile),
        weight_bytes=sum(map(weight_bytes, networks)),
        feature_bytes=features,
    )


def _networks_of(upscaler: Upscaler) -> list[nn.Module]:
    """The networks that an upscaler is or holds, also within a descriptor of spandrel."""
    if isinstance(upscaler, nn.Module):
        return [upscaler]
    held = getattr(upscaler, "__dict__", {}).values()
    found = (each if isinstance(each, nn.Module) else getattr(each, "model", None) for each in held)
    return [each for each in found if isinstance(each, nn.Module)]


def size_in_words(count: int) -> str:
    """Bytes in MiB or GiB."""
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
