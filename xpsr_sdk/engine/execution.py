"""How the networks are executed: memory format, compilation, and what is computed once instead of at every step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch.distributed.fsdp import FSDPModule

from xpsr_sdk.config import ExecutionConfig
from xpsr_sdk.library_internals import uncompile


@dataclass(frozen=True)
class Optimizations:
    """Optimizations that save time and change the result by rounding at most.

    All of them are always on. Only the benchmark switches them off.

    Attributes:
        cache_condition: Embed the input once for each tile, not at every evaluation.
        cache_text: Compute the keys and values of the text once, not at every evaluation.
        skip_training_heads: Do not run the heads whose results only training uses.
        channels_last: Use the memory format ``torch.channels_last`` for features and weights.
        pack_weights: On a CPU, keep reordered copies of wide convolution weights, if memory allows.
    """

    cache_condition: bool = True
    cache_text: bool = True
    skip_training_heads: bool = True
    channels_last: bool = True
    pack_weights: bool = True


ALL = Optimizations()
"""The optimizations of every pipeline, except in benchmarks."""


def prepare_networks(unet: Any, controlnet: Any, vae: Any, config: ExecutionConfig, chosen: Optimizations) -> None:
    """Set the memory format of the networks, and compile them or undo an earlier compilation."""
    layout = torch.channels_last if chosen.channels_last else torch.contiguous_format
    for network in (unet, controlnet):
        # Sharded weights keep the memory format that training gave them.
        if not any(isinstance(part, FSDPModule) for part in network.modules()):
            network.to(memory_format=layout)
        uncompile(network)
        if config.compile:
            network.compile(mode=config.compile, fullgraph=True)
    if isinstance(vae, AutoencoderKL):  # another autoencoder may use view(), which needs contiguous features
        vae.to(memory_format=layout)
