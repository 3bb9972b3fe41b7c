"""FSDP (arXiv 2304.11277) for frozen layers: each process holds a shard, and a layer is gathered when it is used.

Trained parameters are not sharded: each process holds all of them, and DDP averages their gradients.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from diffusers import Transformer2DModel
from diffusers.models.downsampling import Downsample2D
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from xpsr_sdk.library_internals import exclude_from_ddp

LAYERS = (ResnetBlock2D, Transformer2DModel, Downsample2D, Upsample2D)
"""The modules that a U-Net calls one after the other. They hold nearly all of its weights."""


def shard_frozen(network: nn.Module, device: torch.device, processes: int) -> None:
    """Shard the layers of a network that have no trained parameters."""
    mesh = init_device_mesh(device.type, (processes,))
    for layer in _frozen_layers(network):
        for parameter in layer.parameters():
            parameter.data = parameter.data.contiguous()  # FSDP cuts shards along the first dimension
        fully_shard(layer, mesh=mesh)


def leave_shards_alone(module: nn.Module) -> None:
    """Make DDP, which will wrap ``module``, ignore the sharded parameters."""
    exclude_from_ddp(module, (name for name, x in module.named_parameters() if isinstance(x, DTensor)))


def gathered(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Gather sharded tensors. All processes must call this together."""
    return {name: x.full_tensor() if isinstance(x, DTensor) else x for name, x in state.items()}


def _frozen_layers(module: nn.Module) -> Iterator[nn.Module]:
    if isinstance(module, LAYERS):
        if not any(parameter.requires_grad for parameter in module.parameters()):
            yield module
        return
    for child in module.children():
        yield from _frozen_layers(child)
