"""Caches the keys and values of the text, so that they are computed once, not at every evaluation of the model."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager

from torch import Tensor, nn


@contextmanager
def cached_text(models: Iterable[nn.Module], texts: Collection[int], width: int) -> Iterator[None]:
    """Within the block, linear layers compute their output for each text once.

    This works with every attention and fusion: a layer caches its output if its input is one of the tensors in
    ``texts`` itself. Nothing is cached for other inputs, such as features or results that were computed from a text.

    Args:
        models: The models whose layers cache.
        texts: The ``id`` of each text, B T D. The tensors must exist as long as the block. Texts may be added in it.
        width: D.
    """
    with ExitStack() as stack:
        for model in models:
            for layer in model.modules():
                if isinstance(layer, nn.Linear) and layer.in_features == width:
                    stack.enter_context(_caching(layer, texts))
        yield


@contextmanager
def _caching(layer: nn.Module, texts: Collection[int]) -> Iterator[None]:
    compute = layer.forward  # includes the hooks of accelerate, which load offloaded weights
    outputs: dict[int, Tensor] = {}

    def forward(x: Tensor) -> Tensor:
        if id(x) not in texts:
            return compute(x)
        if id(x) not in outputs:
            outputs[id(x)] = compute(x)
        return outputs[id(x)]

    before = layer.__dict__.get("forward")
    layer.forward = forward
    try:
        yield
    finally:
        if before is None:
            del layer.forward
        else:
            layer.forward = before
