"""The second half of a photo's way: upscale → latents → denoise → decode → colour → photo, region by region."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import pad

from xpsr_sdk.contracts import Sampler, StepCallback
from xpsr_sdk.data.picture import Picture
from xpsr_sdk.engine.alpha import restore_alpha
from xpsr_sdk.engine.canvas import Canvas
from xpsr_sdk.engine.clock import Clock
from xpsr_sdk.engine.decoding import decode_latents, finish
from xpsr_sdk.engine.enlarge import alpha_of, enlarge, upscale
from xpsr_sdk.engine.networks import Networks
from xpsr_sdk.engine.plan import MemoryPlan
from xpsr_sdk.engine.prepared import PreparedPhoto
from xpsr_sdk.engine.regions import Region, noise_at
from xpsr_sdk.engine.sampling import sample_latents
from xpsr_sdk.engine.workload import Workload
from xpsr_sdk.errors import ConfigError

Progress = Callable[[int, int], None]
"""``progress(done, total)``, after each region of a photo."""


@dataclass(frozen=True)
class Restoration:
    """What restores photos together.

    Attributes:
        networks: What they go through.
        sampler: Turns noise into latents.
        workload: How much is computed at once.
        clock: Where stages are timed.
        callback: Called after each step.
    """

    networks: Networks
    sampler: Sampler
    workload: Workload
    clock: Clock
    callback: StepCallback | None

    def restore(
        self, photos: Sequence[PreparedPhoto], regions: Sequence[Region], progress: Progress | None
    ) -> tuple[list[Picture], int]:
        """Restore photos of one size, whose settings differ in seed, prompts and colour correction alone.

        Args:
            photos: The photos.
            regions: Of the result, row by row; see ``plan_regions``.
            progress: ``progress(done, total)``, after each region.

        Returns:
            The restored pictures, and how many tiles they were restored in.

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
            resized, alphas = zip(*(enlarge(photo.picture, region, width, height) for photo in photos), strict=True)
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
        """A region of a picture as the upscaler enlarges it, 1 3 H W in [0, 1]."""
        upscaler, side = self.networks.upscaler, photo.settings.upscaler_tile
        # A scale of 1 leaves the photo to the resize, which keeps all of its bits; bfloat16 would lose those of 16.
        exact = upscaler.scale == 1 or picture.max_level > 255
        dtype = torch.float32 if exact else self.networks.dtype
        with self.clock.stage("upscale"):
            return upscale(upscaler, picture, region, width, height, lambda x: self.workload.upscale(x, side, dtype))

    def _restore_image(
        self, upscaled: Tensor, resized: Tensor, photos: Sequence[PreparedPhoto], noise: Tensor | None = None
    ) -> tuple[Tensor, int]:
        """Images, B 3 H W in [0, 1], and how many tiles they were restored in.

        Args:
            upscaled: What the upscaler made of the photos, B 3 H W in [0, 1].
            resized: The photos themselves, resized bicubically, likewise.
            photos: What they are of.
            noise: Of their latents, B C h w; None: drawn.
        """
        networks, clock = self.networks, self.clock
        if networks.unet is None:  # the upscaler alone: fidelity blends with the photo itself
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
                return sample_latents(
                    photos[which],
                    upscaled[which],
                    resized[which],
                    None if noise is None else noise[which],
                    networks=networks,
                    sampler=self.sampler,
                    plan=plan,
                    callback=self.callback,
                )

        def decode(which: slice, latents: Tensor) -> Tensor:
            with clock.stage("decode"):
                return decode_latents(photos[which], latents, upscaled[which], resized[which], networks)

        images, plan = self.workload.run(rows, columns, len(photos), photos[0].settings, sample, decode)
        return images[..., :height, :width], len(plan.tiles)

    def _restore_alpha(self, alpha: Tensor, photo: PreparedPhoto, region: Region, width: int, height: int) -> Tensor:
        """Alpha, 1 1 H W in [0, 1], restored as faithfully as the model can, or only enlarged if that is asked for."""
        if photo.settings.alpha == "resize":
            return alpha
        # Without a model there is nothing to be faithful with: the upscaler's image is what was asked for.
        fidelity = photo.settings.fidelity if self.networks.unet is None else 1.0
        faithful = photo.settings.model_copy(update={"fidelity": fidelity, "color": "none"})
        of_alpha = replace(photo, settings=faithful, latents=None)

        def restore(image: Tensor) -> Tensor:
            upscaled = self._upscale(alpha_of(photo.picture), photo, region, width, height)
            return self._restore_image(upscaled, image, [of_alpha])[0]

        return restore_alpha(alpha, restore)

    def _noise(self, region: Region, seed: int) -> Tensor:
        """The noise of a region's latents, 1 C h w."""
        stride, channels = self.networks.stride, self.networks.unet.config.in_channels
        height, width = (-(-side // stride) for side in reversed(region.size))
        return noise_at(seed, channels, region.top // stride, region.left // stride, height, width)
