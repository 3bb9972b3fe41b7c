"""Keys and values of the text: computed once a run, not at every evaluation of the model."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager

from torch import Tensor, nn


@contextmanager
def cached_text(models: Iterable[nn.Module], texts: Collection[int], width: int) -> Iterator[None]:
    """Within the block, linear layers that read a text itself compute once a text.

    It asks for no particular attention: whichever layer of whichever fusion is handed one of the very tensors in
    ``texts`` remembers its output. Layers that read features, or anything made from a text, are left alone.

    Args:
        models: Whose layers.
        texts: The ``id`` of each text, B T D; they must live as long as the block. May grow within it.
        width: D.
    """
    with ExitStack() as stack:
        for model in models:
            for layer in model.modules():
                if isinstance(layer, nn.Linear) and layer.in_features == width:
                    stack.enter_context(_remembering(layer, texts))
        yield


@contextmanager
def _remembering(layer: nn.Module, texts: Collection[int]) -> Iterator[None]:
    compute = layer.forward  # the hooks of accelerate, which bring offloaded weights in, are part of it
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
