"""How features travel through diffusers' blocks when sites have fusions and decoder layers have pixel attention.

The blocks themselves are diffusers' own; only the order of calls is ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, cat

from xpsr_sdk.models.fusion import attend

Size = tuple[int, int]


def run_down(block: Any, x: Tensor, temb: Tensor, high: Tensor, low: Tensor | None) -> tuple[Tensor, list[Tensor]]:
    """One encoder block: the features it passes on, and its skip connections."""
    skips = []
    for i, resnet in enumerate(block.resnets):
        x = resnet(x, temb)
        if hasattr(block, "attentions"):
            x = attend(block, i, x, high, low)
        skips.append(x)
    for downsampler in block.downsamplers or ():
        x = downsampler(x)
        skips.append(x)
    return x, skips


def run_mid(block: Any, x: Tensor, temb: Tensor, high: Tensor, low: Tensor | None) -> Tensor:
    """The middle block."""
    x = block.resnets[0](x, temb)
    for i, resnet in enumerate(block.resnets[1:]):
        x = attend(block, i, x, high, low)
        x = resnet(x, temb)
    return x


def run_up(
    block: Any,
    x: Tensor,
    temb: Tensor,
    skips: Sequence[Tensor],
    residuals: Sequence[Tensor] | None,
    high: Tensor,
    low: Tensor | None,
    size: Size | None,
) -> Tensor:
    """One decoder block.

    Args:
        skips: The encoder's skip connections for this block, ControlNet residuals already added.
        residuals: Those residuals by themselves, for pixel attention (XPSR's decoder attends to them after the text).
        size: Size to upsample to, where doubling would not give it.
    """
    for i, resnet in enumerate(block.resnets):
        x = resnet(cat([x, skips[-1 - i]], dim=1), temb)
        if hasattr(block, "attentions"):
            x = attend(block, i, x, high, low)
        if residuals is not None:
            tokens = residuals[-1 - i].flatten(2).transpose(1, 2)
            x = block.pixel_attentions[i](x, encoder_hidden_states=tokens, return_dict=False)[0]
    for upsampler in block.upsamplers or ():
        x = upsampler(x, size)
    return x
