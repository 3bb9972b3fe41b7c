"""Keeps the weights of frozen networks in 8 or 4 bits. A layer turns them back into numbers whenever it computes.

This saves memory and no time: the computations are those of the full precision, with weights that are rounded. Biases,
norms, embeddings and small layers stay as they are, and so does the autoencoder.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization

from xpsr_sdk.config import Quantization
from xpsr_sdk.errors import ConfigError

SMALLEST = 2**14
"""Weights with fewer numbers stay as they are. The first and the last convolution of a U-Net are among them."""
FORMS = {"int8": torch.int8, "fp8": torch.float8_e4m3fn}
"""The numbers that weights of 8 bits are kept as."""
BLOCK = 64
"""How many weights in a row share a scale in 4 bits, as in the paper."""


class ScaledWeights(nn.Module):
    """Weights in 8 bits, with one scale for each output channel.

    Args:
        form: ``torch.int8``, or ``torch.float8_e4m3fn``, which has 3 bits of mantissa.
    """

    def __init__(self, form: torch.dtype) -> None:
        super().__init__()
        self.form = form
        self.largest = 127.0 if form == torch.int8 else torch.finfo(form).max

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """The bytes of the weights, and their scales in the precision of the weights."""
        peak = weight.abs().amax(dim=tuple(range(1, weight.ndim)), keepdim=True)
        scale = (peak / self.largest).to(weight.dtype)
        scale = torch.where(scale == 0, 1, scale)
        scaled = (weight.float() / scale.float()).clamp(-self.largest, self.largest)
        stored = scaled.round().to(torch.int8) if self.form == torch.int8 else scaled.to(self.form)
        return stored.view(torch.int8), scale  # not as float8: module.to(dtype) would convert it

    def forward(self, stored: Tensor, scale: Tensor) -> Tensor:
        """The weights, in the precision of the scales."""
        return stored.view(self.form).to(scale.dtype).mul_(scale)


class Nf4Weights(nn.Module):
    """Weights as 4-bit NormalFloat (arXiv 2305.14314), with one scale for each block of weights, by bitsandbytes."""

    def __init__(self) -> None:
        super().__init__()
        self.shape = torch.Size()

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """The packed weights, and their scales in the precision of the weights."""
        # With the channels last, so that convolutions get their weights in the memory format of the features.
        channels_last = weight.movedim(1, -1).contiguous()
        self.shape = channels_last.shape
        packed, state = _bitsandbytes().quantize_4bit(channels_last, blocksize=BLOCK, quant_type="nf4")
        return packed, state.absmax.to(weight.dtype)

    def forward(self, packed: Tensor, scale: Tensor) -> Tensor:
        """The weights, in the precision of the scales."""
        # The operation itself, since the function around it cannot be compiled.
        dequantize = torch.ops.bitsandbytes.dequantize_4bit.default
        weight: Tensor = dequantize(packed, scale.float(), BLOCK, "nf4", self.shape, scale.dtype)
        return weight.movedim(-1, 1)


def quantize_networks(networks: Iterable[nn.Module], kind: Quantization) -> None:
    """Quantise the weights of all linear layers and convolutions, unless that was done already.

    Raises:
        ConfigError: bitsandbytes is needed and not installed.
    """
    for network in networks:
        layers: list[Any] = list(network.modules())
        for layer in layers:
            # A layer with quantised weights has another class.
            if type(layer) in (nn.Linear, nn.Conv2d) and layer.weight.numel() >= SMALLEST:
                layer.weight.requires_grad_(False)
                form = Nf4Weights() if kind == "nf4" else ScaledWeights(FORMS[kind])
                register_parametrization(layer, "weight", form, unsafe=True)


def check_quantization(kind: Quantization | None, device: torch.device) -> None:
    """Refuse what gains nothing, or cannot work.

    Raises:
        ConfigError: The device converts fp8 slowly or not at all, or bitsandbytes is not installed.
    """
    if kind == "fp8" and device.type not in ("cuda", "xpu"):
        raise ConfigError(
            f"quantize is 'fp8', which gains nothing on {device.type}: it has no instructions that convert fp8, and "
            "int8 is faster and closer to full precision."
        )
    if kind == "nf4":
        _bitsandbytes()


@cache
def _bitsandbytes() -> Any:
    try:
        return import_module("bitsandbytes.functional")
    except ImportError as error:
        raise ConfigError(
            f"quantize is 'nf4', which needs bitsandbytes ({error}): pip install 'xpsr-sdk[bitsandbytes]'."
        ) from None
