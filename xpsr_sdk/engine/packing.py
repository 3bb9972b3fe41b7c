"""Weights of convolutions in the order that the CPU's kernels read them in, made once a run, not at every call."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

WIDTH = 640
"""Input channels from which the reordering of a 3x3 kernel takes longer than a tenth of the convolution."""


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
    reorder: Any = torch._C._nn.mkldnn_reorder_conv2d_weight
    arguments = (layer.padding, layer.stride, layer.dilation, layer.groups)
    packed: dict[tuple[int, int], Tensor] = {}  # by the weight's state: callbacks may change weights on the way

    def forward(x: Tensor) -> Tensor:
        state = (layer.weight.data_ptr(), layer.weight._version)
        if state not in packed:
            packed.clear()
            packed[state] = reorder(layer.weight.to_mkldnn(), *arguments, list(x.shape))
        return torch.ops.mkldnn._convolution_pointwise(x, packed[state], layer.bias, *arguments, "none", [], "")

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
        and "forward" not in layer.__dict__  # whoever has put in another forward, offloading for one, means it
        and torch.backends.mkldnn.is_available()
    )
