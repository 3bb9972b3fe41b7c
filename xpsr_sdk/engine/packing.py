"""Weights of convolutions in the order that the CPU's kernels read them in, made once instead of at every call."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

WIDTH = 640
"""Input channels from which the reordering of a 3x3 kernel takes longer than a tenth of the convolution."""


class PackedWeights:
    """Packed copies of weights, kept from run to run, and made anew where a weight has changed."""

    def __init__(self) -> None:
        self._packed: WeakKeyDictionary[nn.Module, tuple[tuple[int, int], Tensor]] = WeakKeyDictionary()

    @contextmanager
    def used_by(self, models: Iterable[nn.Module]) -> Iterator[None]:
        """Within the block, the wide convolutions of ``models`` use packed weights. On the CPU only."""
        with ExitStack() as stack:
            for model in models:
                for layer in model.modules():
                    if packs(layer):
                        stack.enter_context(self._packing(layer))
            yield

    @contextmanager
    def _packing(self, layer: Any) -> Iterator[None]:
        def forward(x: Tensor) -> Tensor:
            arguments = (layer.padding, layer.stride, layer.dilation, layer.groups)
            return torch.ops.mkldnn._convolution_pointwise(
                x, self._weight(layer, x), layer.bias, *arguments, "none", [], ""
            )

        layer.forward = forward
        try:
            yield
        finally:
            del layer.forward

    def _weight(self, layer: Any, x: Tensor) -> Tensor:
        state = (layer.weight.data_ptr(), layer.weight._version)
        if layer not in self._packed or self._packed[layer][0] != state:
            arguments = (layer.padding, layer.stride, layer.dilation, layer.groups, list(x.shape))
            reorder: Any = torch._C._nn.mkldnn_reorder_conv2d_weight
            packed = reorder(layer.weight.to_mkldnn(), *arguments)
            self._packed[layer] = state, packed
        return self._packed[layer][1]


def packs(layer: nn.Module) -> bool:
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
