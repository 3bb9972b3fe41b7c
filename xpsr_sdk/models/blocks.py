"""Runs diffusers' blocks with fusions at attention sites and with pixel attention in decoder layers.

The blocks are those of diffusers. Only the order of calls differs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, cat, is_grad_enabled
from torch.utils.checkpoint import checkpoint

from xpsr_sdk.models.fusion import attend

Size = tuple[int, int]


def run_down(block: Any, x: Tensor, temb: Tensor, high: Tensor, low: Tensor | None) -> tuple[Tensor, list[Tensor]]:
    """Run an encoder block. Returns its features and its skip connections."""
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
    """Run the middle block."""
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
    """Run a decoder block.

    Args:
        skips: The encoder's skip connections for this block, with the ControlNet's residuals added.
        residuals: The same residuals alone, for pixel attention (XPSR's decoder attends to them after the text).
        size: The size to upsample to, if it is not twice the size.
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
    """Run a layer of a block. With gradient checkpointing, the backward pass computes its features again."""
    if getattr(block, "gradient_checkpointing", False) and is_grad_enabled():
        out: Tensor = checkpoint(layer, x, use_reentrant=False)
        return out
    return layer(x)


def checkpoint_gradients(model: Any) -> None:
    """Switch on gradient checkpointing: keep only the features between layers, and compute the others again.

    diffusers' ``enable_gradient_checkpointing`` is not used, because it also changes the transformers inside a layer.
    """
    for block in (*model.down_blocks, model.mid_block, *getattr(model, "up_blocks", ())):
        block.gradient_checkpointing = True
