"""How the networks are executed: laid out in memory, compiled, and what is computed once instead of at every step."""

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
    """What saves time and changes the result by rounding at most. All are on; the benchmark switches them off.

    Attributes:
        cache_condition: Embed the input once a tile, not at every evaluation.
        cache_text: Compute the text's keys and values once, not at every evaluation.
        skip_training_heads: Do not run the heads that training alone reads.
        channels_last: Keep the channels of features and kernels side by side in memory.
        pack_weights: On a CPU, keep wide kernels in the order in which they are read, where memory allows.
    """

    cache_condition: bool = True
    cache_text: bool = True
    skip_training_heads: bool = True
    channels_last: bool = True
    pack_weights: bool = True


ALL = Optimizations()
"""What every pipeline uses unless it is measured."""


def prepare_networks(unet: Any, controlnet: Any, vae: Any, config: ExecutionConfig, chosen: Optimizations) -> None:
    """Lay the networks out in memory, and compile them or undo an earlier compilation."""
    layout = torch.channels_last if chosen.channels_last else torch.contiguous_format
    for network in (unet, controlnet):
        # Shards stay as training has laid them.
        if not any(isinstance(part, FSDPModule) for part in network.modules()):
            network.to(memory_format=layout)
        uncompile(network)
        if config.compile:
            network.compile(mode=config.compile, fullgraph=True)
    if isinstance(vae, AutoencoderKL):  # others may read their features through views
        vae.to(memory_format=layout)
