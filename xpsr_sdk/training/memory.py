"""Counts the memory that a training step needs, on real tensors or on fake ones without content.

All tensors are counted that PyTorch's operations make, as long as they exist. The temporary memory of kernels and
libraries is not counted, and neither is memory that the allocator keeps in reserve.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from xpsr_sdk.engine.memory import LiveBytes

GIB = 2**30


@dataclass(frozen=True)
class StepMemory:
    """The bytes of a training step.

    Attributes:
        weights: The weights of all networks.
        gradients: The gradients of the trained parameters.
        optimizer: The state of the optimiser.
        ema_weights: The EMA weights.
        activations: The peak of everything else: features, copies in half precision, intermediate results.
    """

    weights: int
    gradients: int
    optimizer: int
    ema_weights: int
    activations: int

    @property
    def total(self) -> int:
        """An upper bound of the peak: gradients are allocated while activations are freed, but all are added here."""
        return self.weights + self.gradients + self.optimizer + self.ema_weights + self.activations

    def rows(self) -> Iterator[tuple[str, str]]:
        """The name and size of each part and of the total."""
        for name in ("weights", "gradients", "optimizer", "ema_weights", "activations", "total"):
            yield name.replace("ema_", "EMA "), f"{getattr(self, name) / GIB:.2f} GiB"


def step_memory(
    networks: Iterable[nn.Module], trained: Mapping[str, nn.Parameter], optimizer: str, forward: Callable[[], Tensor]
) -> StepMemory:
    """Count the memory of a step.

    What is kept between steps is computed from the sizes of the parameters. The rest is counted while a step runs.

    Args:
        networks: All networks of the run.
        trained: The parameters that are trained.
        optimizer: ``"adamw"`` or ``"adamw-8bit"``.
        forward: Computes the loss. Its gradients are computed and discarded.
    """
    weights = list({id(p): p for network in networks for p in (*network.parameters(), *network.buffers())}.values())
    numbers = [parameter.numel() for parameter in trained.values()]
    size = sum(_bytes(parameter) for parameter in trained.values())
    with LiveBytes(weights) as counted:
        before = counted.live
        loss = forward()
        forward_peak = counted.peak - before
        loss.backward()
        # In the backward pass gradients exist, too. They have a field of their own, so they are subtracted here.
        activations = max(forward_peak, counted.peak - before - size)
    for parameter in trained.values():
        parameter.grad = None
    return StepMemory(
        weights=sum(map(_bytes, weights)),
        gradients=size,
        optimizer=sum(optimizer_bytes(optimizer, number) for number in numbers),
        ema_weights=size,
        activations=activations,
    )


def optimizer_bytes(optimizer: str, number: int) -> int:
    """Bytes of the state for a tensor of ``number`` parameters: two moments, and the step or the scales of blocks."""
    if optimizer == "adamw" or number < 4096:  # bitsandbytes holds small tensors in 32 bits
        return 8 * number + (4 if optimizer == "adamw" else 0)
    return 2 * (number + 4 * -(-number // 256))


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
