"""How much memory a training step needs: counted, byte by byte, on real tensors or on ones without content.

What is counted is every tensor that PyTorch's operations make, for as long as it lives. Not counted is what kernels and
libraries use inside, and what an allocator keeps back.
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
        weights: All networks' weights.
        gradients: The gradients of the trained parameters.
        optimizer: The state of the optimiser.
        averages: The EMA weights.
        activations: The peak of everything else: features, copies in half precision, intermediate results.
    """

    weights: int
    gradients: int
    optimizer: int
    averages: int
    activations: int

    @property
    def total(self) -> int:
        """At the peak. Gradients grow while activations go, so that both together are an upper bound."""
        return self.weights + self.gradients + self.optimizer + self.averages + self.activations

    def rows(self) -> Iterator[tuple[str, str]]:
        """Each part and the total, in GiB, for a table."""
        for name in ("weights", "gradients", "optimizer", "averages", "activations", "total"):
            yield name, f"{getattr(self, name) / GIB:.2f} GiB"


def step_memory(
    networks: Iterable[nn.Module], trained: Mapping[str, nn.Parameter], optimizer: str, forward: Callable[[], Tensor]
) -> StepMemory:
    """Count the memory of a step. What stays from step to step follows from the sizes of the parameters; the rest is
    counted while a step runs.

    Args:
        networks: All that hold weights.
        trained: The parameters that are trained.
        optimizer: ``"adamw"`` or ``"adamw-8bit"``.
        forward: Gives the loss. The gradients that follow from it are thrown away.
    """
    weights = list({id(p): p for network in networks for p in (*network.parameters(), *network.buffers())}.values())
    numbers = [parameter.numel() for parameter in trained.values()]
    size = sum(_bytes(parameter) for parameter in trained.values())
    with LiveBytes(weights) as counted:
        before = counted.live
        loss = forward()
        forward_peak = counted.peak - before
        loss.backward()
        # In the backward pass the gradients so far are alive, too; at its end all of them.
        activations = max(forward_peak, counted.peak - before - size)
    for parameter in trained.values():
        parameter.grad = None
    return StepMemory(
        weights=sum(map(_bytes, weights)),
        gradients=size,
        optimizer=sum(optimizer_bytes(optimizer, number) for number in numbers),
        averages=size,
        activations=activations,
    )


def optimizer_bytes(optimizer: str, number: int) -> int:
    """The state of a tensor of so many parameters: two moments, and the step or the scales of 8-bit blocks."""
    if optimizer == "adamw" or number < 4096:  # bitsandbytes holds small tensors in 32 bits
        return 8 * number + (4 if optimizer == "adamw" else 0)
    return 2 * (number + 4 * -(-number // 256))


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
