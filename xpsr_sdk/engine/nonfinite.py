"""Finds the place where NaN or infinity first arose in the networks. Restorations that work pay nothing for it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

from xpsr_sdk.errors import NonFiniteResult
from xpsr_sdk.library_internals import tree_leaves
from xpsr_sdk.plugin_system.answers import extremes, of_photo
from xpsr_sdk.plugin_system.marks import Mark, mark_of


def is_finite(*values: Any) -> bool:
    """Whether all tensors of floating-point numbers in these values, and in what they contain, are finite."""
    tensors = [x for x in tree_leaves(values) if isinstance(x, Tensor) and x.is_floating_point()]
    return all(math.isfinite(number) for tensor in tensors for number in extremes(tensor))


@contextmanager
def watched(**networks: nn.Module) -> Iterator[None]:
    """Within the block, the first layer that makes NaN or infinity out of finite numbers raises.

    Each layer is waited for, so that this is for computing again what has failed.

    Args:
        networks: By their names.

    Raises:
        NonFiniteResult: It names the layer, and the part that it belongs to.
    """
    handles = []
    for title, network in networks.items():
        for name, module in network.named_modules():
            hook = partial(_check, network, f"{title}.{name}".rstrip("."))
            handles.append(module.register_forward_hook(hook, with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _check(network: nn.Module, place: str, module: nn.Module, args: Any, kwargs: Any, out: Any) -> None:
    if is_finite(out) or not is_finite(args, kwargs):
        return
    tensors = [*module.parameters(), *module.buffers()]
    broken = not is_finite(*tensors)
    precision = next((str(x.dtype).removeprefix("torch.") for x in tree_leaves(out) if isinstance(x, Tensor)), "")
    why = "whose weights hold such numbers" if broken else f"whose numbers are too large for {precision}"
    advice = "use another model or checkpoint" if broken else "use float32 (dtype), which holds larger numbers"
    part = _part_with(network, place.partition(".")[2])
    layer = f"{place}, a layer of the {part}" if part else place
    raise NonFiniteResult(
        f"The stage denoise gave numbers that are not finite{of_photo()}. They arose in {layer}, {why}: {advice}."
    )


def _part_with(network: nn.Module, name: str) -> Mark | None:
    """The part, such as a fusion, that the layer ``name`` belongs to."""
    found = None
    for step in name.split("."):
        network = getattr(network, step, network)
        found = mark_of(network) or found
    return found
