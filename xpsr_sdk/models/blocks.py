"""How features travel through diffusers' blocks when sites have fusions and decoder layers have pixel attention.

The blocks themselves are diffusers' own; only the order of calls is ours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, cat, is_grad_enabled
from torch.utils.checkpoint import checkpoint

from xpsr_sdk.models.fusion import attend

Size = tuple[int, int]


def run_down(block: Any, x: Tensor, temb: Tensor, high: Tensor, low: Tensor | None) -> tuple[Tensor, list[Tensor]]:
    """One encoder block: the features it passes on, and its skip connections."""
    skips = []
    for i, resnet in enumerate(block.resnets):

        def layer(x: Tensor, i: int = i, resnet: Any = resnet) -> Tensor:
            x = resnet(x, temb)
            return attend(block, i, x, high, low) if hasattr(block, "attentions") else x

        x = _run(block, layer, x)
        skips.append(x)
    for downsampler in block.downsamplers or ():
        x = downsampler(x)
        skips.append(x)
    return x, skips


def run_mid(block: Any, x: Tensor, temb: Tensor, high: Tensor, low: Tensor | None) -> Tensor:
    """The middle block."""
    x = block.resnets[0](x, temb)
    for i, resnet in enumerate(block.resnets[1:]):

        def layer(x: Tensor, i: int = i, resnet: Any = resnet) -> Tensor:
            out: Tensor = resnet(attend(block, i, x, high, low), temb)
            return out

        x = _run(block, layer, x)
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

        def layer(x: Tensor, i: int = i, resnet: Any = resnet) -> Tensor:
            x = resnet(cat([x, skips[-1 - i]], dim=1), temb)
            if hasattr(block, "attentions"):
                x = attend(block, i, x, high, low)
            if residuals is not None and hasattr(block, "pixel_attentions"):
                tokens = residuals[-1 - i].flatten(2).transpose(1, 2)
                x = block.pixel_attentions[i](x, encoder_hidden_states=tokens, return_dict=False)[0]
            return x

        x = _run(block, layer, x)
    for upsampler in block.upsamplers or ():
        x = upsampler(x, size)
    return x


def _run(block: Any, layer: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """A layer of a block; where gradient checkpointing is on, its features are computed again in the backward pass."""
    if getattr(block, "gradient_checkpointing", False) and is_grad_enabled():
        out: Tensor = checkpoint(layer, x, use_reentrant=False)
        return out
    return layer(x)


def checkpoint_gradients(model: Any) -> None:
    """Keep only what passes between the layers of a model for the backward pass, and compute the rest again.

    Not diffusers' ``enable_gradient_checkpointing``, which also reaches into the transformers of a layer.
    """
    for block in (*model.down_blocks, model.mid_block, *getattr(model, "up_blocks", ())):
        block.gradient_checkpointing = True
