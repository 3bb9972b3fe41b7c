"""How much is computed at once. The one place that notices when memory runs out, and decides what to do less of."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from xpsr_sdk.engine.memory import is_out_of_memory
from xpsr_sdk.engine.networks import Networks
from xpsr_sdk.engine.plan import MemoryPlan, plan_memory
from xpsr_sdk.engine.rows import autoencoder_in_rows
from xpsr_sdk.engine.upscaling import SMALLEST_TILE, upscale_in_tiles
from xpsr_sdk.resolved import ResolvedSettings

Sample = Callable[[slice, MemoryPlan], Tensor]
"""``sample(which, plan)`` gives latents, B C h w, of the photos ``which`` of the batch."""
Decode = Callable[[slice, Tensor], Tensor]
"""``decode(which, latents)`` gives the images, B 3 H W, of those photos."""


class Workload:
    """How much of a batch of photos is computed at once: as much as fits into memory.

    When memory runs out, less is tried: fewer photos at a time, then fewer tiles, then smaller tiles; rows of the
    autoencoder while it decodes. What was learnt holds for all that follows, be it another region or transparency.

    Args:
        networks: What photos go through.
        photos: Photos in the batch.
        unload: Asks others who use the device, such as a captioner, to free their memory.

    Attributes:
        photos: Photos that go through the networks at a time.
        decided: The settings ``upscaler_tile``, ``tile``, ``tile_overlap``, ``tile_batch`` and ``vae_rows``, once they
            are decided.
    """

    def __init__(self, networks: Networks, photos: int, unload: Callable[[], None]) -> None:
        self.photos = photos
        self.decided: dict[str, int | None] = {}
        self._networks, self._unload = networks, unload

    def run(
        self, height: int, width: int, photos: int, settings: ResolvedSettings, sample: Sample, decode: Decode
    ) -> tuple[Tensor, MemoryPlan]:
        """Sample and decode images of several photos, as many at once as fit.

        Args:
            height: Of the images, in pixels, a multiple of the stride.
            width: Likewise.
            photos: How many.
            settings: Of all of them.
            sample: Gives latents. What was sampled is not sampled again when decoding runs out of memory.
            decode: Gives images.

        Returns:
            The images, B 3 H W, and the plan that they were made by.

        Raises:
            Exception: Whatever ``sample`` or ``decode`` raised, if that was no lack of memory, or if nothing is left
                to do less of.
        """
        images: list[Tensor] = []
        latents: Tensor | None = None  # of photos that are sampled, but not decoded
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
                self._do_less(plan, count, error, decoding=latents is not None)
            else:
                self.decided = self.decided | _decided_by(plan)
                latents = latents[count:] if len(latents) > count else None
                if len(images) == photos:
                    return torch.cat(images), plan
            gc.collect()  # what a failed attempt held hangs on its traceback

    def upscale(self, images: Tensor, side: int, dtype: torch.dtype) -> Tensor:
        """What the upscaler makes of images, B 3 h w in [0, 1], in tiles that fit into memory: float32, on the CPU.

        Args:
            images: The photos.
            side: Of a tile, in pixels of the images, if that fits.
            dtype: What the upscaler computes in.
        """
        upscaler, device = self._networks.upscaler, self._networks.device
        side = min(side, self.decided.get("upscaler_tile") or side, max(images.shape[-2:]))
        while True:
            try:
                return upscale_in_tiles(upscaler, images.to(device, dtype), side).to("cpu", torch.float32)
            except Exception as error:
                if not is_out_of_memory(error) or side <= SMALLEST_TILE:
                    raise
            gc.collect()  # what the failed attempt held hangs on its traceback
            side = max(side // 2, SMALLEST_TILE)
            self.decided = self.decided | {"upscaler_tile": side}
            self._make_room()
            warnings.warn(f"Out of memory: trying again with upscaler_tile {side}.", stacklevel=2)

    def _plan(self, height: int, width: int, settings: ResolvedSettings, photos: int) -> MemoryPlan:
        settings = settings.model_copy(update=self.decided)
        plan = plan_memory(self._networks, height, width, settings, photos)
        if plan.short and self._networks.park_text_encoder():
            plan = plan_memory(self._networks, height, width, settings, photos)
        return plan

    def _do_less(self, plan: MemoryPlan, photos: int, error: Exception, decoding: bool) -> None:
        """Decide what is tried next; raises ``error`` if there is nothing."""
        if photos > 1:
            self.photos = photos - photos // 2
            words = "fewer photos at a time"
        else:
            change = plan.smaller(decoding)
            if change is None:
                raise error
            self.decided = self.decided | _decided_by(plan) | change
            words = ", ".join(f"{name} {value}" for name, value in change.items())
        self._make_room()
        warnings.warn(f"Out of memory: trying again with {words}.", stacklevel=2)

    def _make_room(self) -> None:
        """Let those who wait on the device free their memory."""
        self._unload()
        self._networks.upscaler.unload()
        self._networks.park_text_encoder()


def _decided_by(plan: MemoryPlan) -> dict[str, Any]:
    return {name: getattr(plan.settings, name) for name in ("tile", "tile_overlap", "tile_batch", "vae_rows")}
