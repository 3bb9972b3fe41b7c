"""The second half of a restoration: upscale → latents → denoise → decode → colour → photo, region by region."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import pad

from xpsr_sdk.contracts import Sampler
from xpsr_sdk.data.picture import Picture
from xpsr_sdk.engine.alpha import alpha_of, restore_alpha
from xpsr_sdk.engine.callbacks import UserCallback
from xpsr_sdk.engine.canvas import Canvas
from xpsr_sdk.engine.clock import Clock
from xpsr_sdk.engine.decoding import decode_latents, finish
from xpsr_sdk.engine.networks import Networks
from xpsr_sdk.engine.plan import MemoryPlan
from xpsr_sdk.engine.prepared import PreparedPhoto
from xpsr_sdk.engine.region_input import resized_region, upscaled_region
from xpsr_sdk.engine.regions import Region, noise_at
from xpsr_sdk.engine.sampling import Sampling
from xpsr_sdk.engine.watching import tell
from xpsr_sdk.engine.workload import Workload
from xpsr_sdk.errors import ConfigError

Progress = Callable[[int, int], None]
"""``progress(done, total)``, called after each region of a photo."""


@dataclass(frozen=True)
class Restoration:
    """Restores photos together, with the given networks and sampler.

    Attributes:
        networks: The networks that the photos go through.
        sampler: Turns noise into latents.
        workload: Decides how much is computed at once.
        clock: Measures the time of each stage.
        callback: Called after each step.
    """

    networks: Networks
    sampler: Sampler
    workload: Workload
    clock: Clock
    callback: UserCallback | None

    def restore(
        self, photos: Sequence[PreparedPhoto], regions: Sequence[Region], progress: Progress | None
    ) -> tuple[list[Picture], int]:
        """Restore photos of one size. Only their seeds, prompts and colour correction may differ.

        Args:
            photos: The photos.
            regions: The regions of the result, row by row; see ``plan_regions``.
            progress: ``progress(done, total)``, called after each region.

        Returns:
            The restored pictures, and the number of tiles.

        Raises:
            ConfigError: Start latents are given for photos of several regions.
        """
        several = len(regions) > 1
        if several and photos[0].latents is not None:
            raise ConfigError(f"latents are for photos of one region, not of {len(regions)}: give a larger region.")
        width, height = regions[-1].right, regions[-1].bottom
        canvases = [Canvas(width, height, like=photo.picture, on_disk=several) for photo in photos]
        tiles = 0
        for done, region in enumerate(regions, start=1):
            tell("regions", done - 1, len(regions))
            resized, alphas = zip(
                *(resized_region(photo.picture, region, width, height) for photo in photos), strict=True
            )
            upscaled = [self._upscale(photo.picture, photo, region, width, height) for photo in photos]
            draws = several and self.networks.unet is not None
            noise = torch.cat([self._noise(region, photo.settings.seed) for photo in photos]) if draws else None
            images, cut = self._restore_image(torch.cat(upscaled), torch.cat(resized), photos, noise)
            tiles += cut
            for photo, canvas, image, alpha in zip(photos, canvases, images.split(1), alphas, strict=True):
                of_alpha = None if alpha is None else self._restore_alpha(alpha, photo, region, width, height)
                canvas.paste(region, image, of_alpha)
            if progress:
                progress(done, len(regions))
        return [canvas.picture() for canvas in canvases], tiles

    def _upscale(self, picture: Picture, photo: PreparedPhoto, region: Region, width: int, height: int) -> Tensor:
        """A region of a picture, enlarged by the upscaler, 1 3 H W in [0, 1]."""
        upscaler, side = self.networks.upscaler, photo.settings.upscaler_tile
        # A scale of 1 means that only the resize changes the photo, in full precision. bfloat16 has too few bits for
        # that, and for 16-bit photos.
        exact = upscaler.scale == 1 or picture.max_level > 255
        dtype = torch.float32 if exact else self.networks.dtype
        with self.clock.stage("upscale"):
            run = partial(self.workload.upscale, side=side, dtype=dtype)
            return upscaled_region(upscaler, picture, region, width, height, run)

    def _restore_image(
        self, upscaled: Tensor, resized: Tensor, photos: Sequence[PreparedPhoto], noise: Tensor | None = None
    ) -> tuple[Tensor, int]:
        """Restore a region of each photo. Returns images, B 3 H W in [0, 1], and the number of tiles.

        Args:
            upscaled: The region, enlarged by the upscaler, B 3 H W in [0, 1].
            resized: The region, enlarged bicubically, of the same shape.
            photos: The photos.
            noise: Noise for the latents, B C h w. None: it is drawn.
        """
        networks, clock = self.networks, self.clock
        if networks.unet is None:  # without a model, fidelity blends the upscaler's image with the bicubic one
            blended = torch.lerp(upscaled, resized, photos[0].settings.fidelity)
            return finish(blended, photos, resized), 0
        height, width = resized.shape[-2:]
        rows, columns = networks.padded(height), networks.padded(width)
        upscaled, resized = (
            pad(image, (0, columns - width, 0, rows - height), mode="replicate").to(networks.device, torch.float32)
            for image in (upscaled, resized)
        )

        def sample(which: slice, plan: MemoryPlan) -> Tensor:
            with clock.stage("denoise"):
                sampling = Sampling(networks, self.sampler, plan, self.callback)
                drawn = None if noise is None else noise[which]
                return sampling.latents(photos[which], upscaled[which], resized[which], drawn)

        def decode(which: slice, latents: Tensor) -> Tensor:
            with clock.stage("decode"):
                return decode_latents(photos[which], latents, upscaled[which], resized[which], networks)

        images, plan = self.workload.run(rows, columns, len(photos), photos[0].settings, sample, decode)
        return images[..., :height, :width], len(plan.tiles)

    def _restore_alpha(self, alpha: Tensor, photo: PreparedPhoto, region: Region, width: int, height: int) -> Tensor:
        """Restore alpha, 1 1 H W in [0, 1], with a fidelity of 1. It stays as it is if ``alpha`` is ``"resize"``."""
        if photo.settings.alpha == "resize":
            return alpha
        # Without a model, a fidelity of 1 would mean bicubic enlargement, so the photo's own fidelity is used.
        fidelity = photo.settings.fidelity if self.networks.unet is None else 1.0
        faithful = photo.settings.model_copy(update={"fidelity": fidelity, "color": "none"})
        of_alpha = replace(photo, settings=faithful, latents=None)

        def restore(image: Tensor) -> Tensor:
            upscaled = self._upscale(alpha_of(photo.picture), photo, region, width, height)
            return self._restore_image(upscaled, image, [of_alpha])[0]

        return restore_alpha(alpha, restore)

    def _noise(self, region: Region, seed: int) -> Tensor:
        """The noise for a region's latents, 1 C h w."""
        stride, channels = self.networks.stride, self.networks.unet.config.in_channels
        height, width = (-(-side // stride) for side in reversed(region.size))
        return noise_at(seed, channels, region.top // stride, region.left // stride, height, width)
