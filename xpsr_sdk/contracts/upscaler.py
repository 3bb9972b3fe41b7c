"""The contract of upscalers, which bring photos to the size at which they are restored."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    import torch


@runtime_checkable
class Upscaler(Protocol):
    """Brings the photo to the size at which it is restored.

    The SDK cuts large photos into tiles, which overlap by ``halo``, and resizes the result bicubically (antialiased) to
    the requested size, so that an upscaler has only one scale. It computes on the device of the image.
    """

    scale: int
    """s: how many times larger the result is; 1 leaves all resizing to the SDK."""
    halo: int
    """Pixels of the input around a tile that the tile's result may depend on."""

    def upscale(self, image: torch.Tensor) -> torch.Tensor:
        """Enlarge a batch; each image by itself.

        Args:
            image: B 3 h w in [0, 1], float32, bfloat16 or float16; any h and w from 1 on.

        Returns:
            B 3 s*h s*w in [0, 1], in the dtype and on the device of ``image``.
        """
        ...

    def unload(self) -> None:
        """Free whatever memory the upscaler holds; ``upscale`` may be called again later.

        Called when memory is short.
        """
        ...
