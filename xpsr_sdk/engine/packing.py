"""Reorders the weights of convolutions for the CPU's kernels once in each run, instead of at every call."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from xpsr_sdk.library_internals import pack_convolution, run_packed_convolution, version_of

WIDTH = 640
"""From so many input channels on, reordering a 3x3 kernel takes more than a tenth of the time of the convolution."""


@contextmanager
def packed_weights(models: Iterable[nn.Module]) -> Iterator[None]:
    """Within the block, the wide convolutions of ``models`` use packed copies of their weights. On the CPU only."""
    with ExitStack() as stack:
        for model in models:
            for layer in model.modules():
                if can_pack(layer):
                    stack.enter_context(_packing(layer))
        yield


@contextmanager
def _packing(layer: Any) -> Iterator[None]:
    packed: dict[tuple[int, int], Tensor] = {}  # by the version of the weight, since callbacks may change weights

    def forward(x: Tensor) -> Tensor:
        state = version_of(layer.weight)
        if state not in packed:
            packed.clear()
            packed[state] = pack_convolution(layer, x.shape)
        return run_packed_convolution(layer, x, packed[state])

    layer.forward = forward
    try:
        yield
    finally:
        del layer.forward


def can_pack(layer: nn.Module) -> bool:
    """Whether a layer is a convolution that is faster with packed weights."""
    return (
        type(layer) is nn.Conv2d
        and layer.weight.device.type == "cpu"
        and layer.in_channels >= WIDTH
        and layer.kernel_size == (3, 3)
        and layer.padding_mode == "zeros"
        and "forward" not in layer.__dict__  # a replaced forward, for instance that of offloading, must stay
        and torch.backends.mkldnn.is_available()
    )
