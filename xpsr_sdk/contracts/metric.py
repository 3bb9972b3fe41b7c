"""The contract of metrics, which measure photos and folders."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    import torch


@runtime_checkable
class Metric(Protocol):
    """Measures photos: one figure for each, or one for a whole folder (see ``FolderMetric``).

    Weights are found when the metric is built: ``CheckpointError`` says what is missing. If its ``Config`` has an
    option ``weights``, that gets the folder which users name for all metrics (``xpsr evaluate --weights``), or None; an
    option ``channel`` gets ``--channel``. The metric computes on the device of the images. The border that users leave
    out (``crop``) is cut off before.
    """

    needs_reference: bool
    """Whether a photo is compared with its reference. Otherwise ``references`` is None."""
    lower_is_better: bool
    """Whether a lower figure means a better photo."""
    min_side: int
    """The smallest width and height that can be measured, in pixels."""
    details: str
    """Everything that changes the figures, in one line: the variant, the library with its version, and the SHA-256 of
    the weights. Reports print it, and stored figures are computed again when it changes. A metric that cannot tell its
    weights exactly has an attribute ``storable``, which is False: its figures are not stored. One whose code or weights
    may not be used for everything has an attribute ``license``, which says so in a line that reports print."""

    def measure(self, images: torch.Tensor, references: torch.Tensor | None) -> torch.Tensor:
        """Measure a batch; each photo by itself.

        Where the formula allows it, gradients pass through, so that the metric can be a term of the training loss.

        Args:
            images: B 3 H W, RGB in [0, 1], float32 or float64.
            references: The same shape, dtype and device as ``images``.

        Returns:
            One figure for each photo, B. It may be infinite, as the PSNR of equal images is.
        """
        ...


@runtime_checkable
class FolderMetric(Metric, Protocol):
    """Measures a whole folder at once, as FID and KID do.

    Its ``measure`` gives the features of each photo, B D, and is called for the references in the same way: its own
    ``references`` are always None.
    """

    def compare(self, features: torch.Tensor, references: torch.Tensor | None) -> float:
        """The figure of a folder.

        Args:
            features: What ``measure`` gave for all photos, N D, float64 on the CPU.
            references: The same for the references, M D; None if the metric needs none.
        """
        ...
