"""The contract of degradations, which make the low-resolution photos that training needs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    import torch


@runtime_checkable
class DegradationModel(Protocol):
    """Makes the low-resolution photo that a training pair needs.

    It must be picklable, since a data loader sends it to its worker processes.
    """

    scale: int
    """s: how many times smaller the result is."""

    def __call__(self, hr: torch.Tensor, generators: Sequence[torch.Generator]) -> torch.Tensor:
        """Degrade a batch.

        Args:
            hr: B 3 H W in [0, 1]; H and W are multiples of s.
            generators: One for each image, on the CPU. An image's result depends on its own generator alone.

        Returns:
            B 3 H/s W/s in [0, 1], in the dtype and on the device of ``hr``.
        """
        ...
