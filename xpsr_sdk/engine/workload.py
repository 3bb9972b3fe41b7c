"""Decides how much is computed at once, and computes less when memory runs out. Only this file handles such errors."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from xpsr_sdk.engine.memory import is_out_of_memory
from xpsr_sdk.engine.networks import Networks
from xpsr_sdk.engine.plan import MemoryPlan, plan_memory
from xpsr_sdk.engine.rows import autoencoder_in_rows
from xpsr_sdk.engine.upscaler_tiles import SMALLEST_UPSCALER_TILE, upscale_in_tiles
from xpsr_sdk.errors import ImageError, XPSRError, one_line
from xpsr_sdk.resolved import ResolvedSettings

Sample = Callable[[slice, MemoryPlan], Tensor]
"""``sample(which, plan)`` returns latents, B C h w, of the photos ``which`` of the batch."""
Decode = Callable[[slice, Tensor], Tensor]
"""``decode(which, latents)`` returns the images, B 3 H W, of those photos."""


@contextmanager
def explaining_lack_of_memory(photos: str) -> Iterator[None]:
    """Within the block, which restores ``photos``, lack of memory is an ``ImageError`` once nothing helps any more."""
    try:
        yield
    except Exception as error:
        if isinstance(error, XPSRError) or not is_out_of_memory(error):
            raise
        raise ImageError(
            f"{photos} cannot be restored: memory ran out, though as little as possible was computed at once "
            f"({one_line(error)}). Free memory, or save some with offload, quantize, or a dtype of 16 bits."
        ) from error


class Workload:
    """How much of a batch of photos is computed at once: as much as fits into memory.

    When memory runs out, it tries again with less: fewer photos at a time, then fewer tiles, then smaller tiles; while
    decoding, fewer rows of the autoencoder. The new limits also hold for everything that follows, such as the next
    region or the transparency.

    Args:
        networks: The networks that photos go through.
        photos: The number of photos in the batch.
        unload: Makes other users of the device, such as a captioner, free their memory.

    Attributes:
        photos: How many photos go through the networks at a time.
        decided: The settings ``upscaler_tile``, ``tile``, ``tile_overlap``, ``tile_batch`` and ``vae_rows``, as far as
            they are decided.
    """

    def __init__(self, networks: Networks, photos: int, unload: Callable[[], None]) -> None:
        self.photos = photos
        self.decided: dict[str, int | None] = {}
        self._networks, self._unload = networks, unload

    def run(
        self, height: int, width: int, photos: int, settings: ResolvedSettings, sample: Sample, decode: Decode
    ) -> tuple[Tensor, MemoryPlan]:
        """Sample and decode images of several photos, as many at once as fit into memory.

        Args:
            height: The height of the images, in pixels, a multiple of the stride.
            width: The width of the images, in pixels, a multiple of the stride.
            photos: The number of photos.
            settings: The settings of all photos.
            sample: Makes latents. They are not sampled again if memory runs out while decoding.
            decode: Makes images of latents.

        Returns:
            The images, B 3 H W, and the plan that was used.

        Raises:
            Exception: An error of ``sample`` or ``decode``, if memory did not run out, or if nothing is left to
                reduce.
        """
        images: list[Tensor] = []
        latents: Tensor | None = None  # of photos that are sampled but not yet decoded
        while True:
            which = slice(len(images), min(len(images) + self.photos, photos))
            count = which.stop - which.start
            plan = self._plan(height, width, settings, count)
            try:
                with autoencoder_in_rows(self._networks.vae, plan.vae_rows):
                    if latents is None:
                        latents = sample(which, plan)
                    images += decode(which, latents[:count]).split(1)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                self._reduce(plan, count, error, decoding=latents is not None)
            else:
                self.decided = self.decided | _decided_by(plan)
                latents = latents[count:] if len(latents) > count else None
                if len(images) == photos:
                    return torch.cat(images), plan
            gc.collect()  # the traceback of a failed attempt still holds its tensors

    def upscale(self, images: Tensor, side: int, dtype: torch.dtype) -> Tensor:
        """Run the upscaler in tiles that fit into memory.

        Args:
            images: The photos, B 3 h w in [0, 1].
            side: The side of a tile, in pixels of the images. It is reduced if memory runs out.
            dtype: The dtype that the upscaler computes in.

        Returns:
            The enlarged images in float32, on the CPU.
        """
        upscaler, device = self._networks.upscaler, self._networks.device
        side = min(side, self.decided.get("upscaler_tile") or side, max(images.shape[-2:]))
        while True:
            try:
                return upscale_in_tiles(upscaler, images.to(device, dtype), side).to("cpu", torch.float32)
            except Exception as error:
                if not is_out_of_memory(error) or side <= SMALLEST_UPSCALER_TILE:
                    raise
            gc.collect()  # the traceback of the failed attempt still holds its tensors
            side = max(side // 2, SMALLEST_UPSCALER_TILE)
            self.decided = self.decided | {"upscaler_tile": side}
            self._free_memory()
            warnings.warn(f"Out of memory: trying again with upscaler_tile {side}.", stacklevel=2)

    def _plan(self, height: int, width: int, settings: ResolvedSettings, photos: int) -> MemoryPlan:
        settings = settings.model_copy(update=self.decided)
        plan = plan_memory(self._networks, height, width, settings, photos)
        if plan.limited_by_memory and self._networks.park_text_encoders():
            plan = plan_memory(self._networks, height, width, settings, photos)
        return plan

    def _reduce(self, plan: MemoryPlan, photos: int, error: Exception, decoding: bool) -> None:
        """Decide what to try next with less memory. Raises ``error`` if nothing is left to reduce."""
        if photos > 1:
            self.photos = photos - photos // 2
            change = "fewer photos at a time"
        else:
            settings = plan.reduced_settings(decoding)
            if settings is None:
                raise error
            self.decided = self.decided | _decided_by(plan) | settings
            change = ", ".join(f"{name} {value}" for name, value in settings.items())
        self._free_memory()
        warnings.warn(f"Out of memory: trying again with {change}.", stacklevel=2)

    def _free_memory(self) -> None:
        """Free the memory of parts that are on the device but not in use."""
        self._unload()
        self._networks.upscaler.unload()
        self._networks.park_text_encoders()


def _decided_by(plan: MemoryPlan) -> dict[str, Any]:
    return {name: getattr(plan.settings, name) for name in ("tile", "tile_overlap", "tile_batch", "vae_rows")}
