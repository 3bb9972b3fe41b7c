"""Turns the enlarged photo and the encoded prompts into clean latents: start, denoise, blend."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor

from xpsr_sdk.contracts import Sampler
from xpsr_sdk.engine.callbacks import UserCallback, for_sampler
from xpsr_sdk.engine.denoiser import GuidedDenoiser, WrongLatents
from xpsr_sdk.engine.networks import Networks
from xpsr_sdk.engine.nonfinite import is_finite, watched
from xpsr_sdk.engine.packing import packed_weights
from xpsr_sdk.engine.plan import MemoryPlan
from xpsr_sdk.engine.prepared import PreparedPhoto
from xpsr_sdk.errors import ConfigError, NonFiniteResult
from xpsr_sdk.models.controlnet import condition_of
from xpsr_sdk.plugin_system.answers import blamed_on, checked_tensor, of_photo, wrong
from xpsr_sdk.resolved import ResolvedSettings


@dataclass(frozen=True)
class Sampling:
    """Samples latents with the given networks and sampler.

    Attributes:
        networks: The networks.
        sampler: Turns noise into latents.
        plan: The tiles, how many go in one pass, and the settings that the photos share.
        callback: ``callback(step, timestep, latents)``, called after each step.
    """

    networks: Networks
    sampler: Sampler
    plan: MemoryPlan
    callback: UserCallback | None

    def latents(
        self, photos: Sequence[PreparedPhoto], upscaled: Tensor, resized: Tensor, noise: Tensor | None
    ) -> Tensor:
        """Sample clean latents, B C h w.

        Args:
            photos: The photos that are restored together.
            upscaled: The photos, enlarged by the upscaler, B 3 H W in [0, 1] (float32). H and W are multiples of the
                stride.
            resized: The photos, enlarged bicubically, of the same shape.
            noise: The noise of the start, B C h w. None: it is drawn, for each photo with its own seed.

        Raises:
            BrokenPlugin: A part failed, or gave something else than its contract promises.
            NonFiniteResult: NaN or infinity arose; the message says where.
        """
        try:
            return self._latents(photos, upscaled, resized, noise)
        except NonFiniteResult:
            with watched(unet=self.networks.unet, controlnet=self.networks.controlnet):  # tells where it comes from
                self._latents(photos, upscaled, resized, noise)
            raise

    def _latents(
        self, photos: Sequence[PreparedPhoto], upscaled: Tensor, resized: Tensor, noise: Tensor | None
    ) -> Tensor:
        networks, settings = self.networks, self.plan.settings
        given = [photo.latents for photo in photos if photo.latents is not None]
        start = start_timestep(networks, settings, with_latents=bool(given))
        generators = [torch.Generator().manual_seed(photo.settings.seed) for photo in photos]
        with ExitStack() as stack:
            if self.plan.pack_weights:
                stack.enter_context(packed_weights((networks.unet, networks.controlnet)))
            condition = condition_of(networks.controlnet, upscaled, resized).to(networks.dtype)
            denoiser = self._denoiser(photos, condition, start)
            stack.enter_context(denoiser.caching())
            begins = "latents" if given else networks.defaults.start
            photo = _photo_latents(upscaled, resized, networks) if begins in ("mean", "photo") else None
            mean = _estimate_mean(denoiser, photo, networks) if begins == "mean" and photo is not None else None
            if given:
                latents = _checked_start(given, upscaled, networks)
            elif begins == "photo" and photo is not None:
                latents = photo
            else:
                latents = _start_latents(start, upscaled, generators, noise, mean, networks)
            if start >= 0:
                latents = self._sampled(denoiser, latents, generators)
            if photo is not None:
                faithful = photo if mean is None else torch.lerp(mean, photo, networks.defaults.photo_share)
                # arXiv 2107.02555: a line to the mean has the smallest error for each degree of realism.
                latents = torch.lerp(latents, faithful, settings.fidelity)
            return latents

    def _denoiser(self, photos: Sequence[PreparedPhoto], condition: Tensor, start: int) -> GuidedDenoiser:
        networks, settings = self.networks, self.plan.settings
        highs = [photo.high for photo in photos if photo.high is not None]
        lows = [photo.low for photo in photos if photo.low is not None]
        return GuidedDenoiser(
            networks.unet,
            networks.controlnet,
            high=torch.cat(highs, dim=1),
            low=torch.cat(lows, dim=1) if lows else None,
            added={name: torch.cat([photo.added[name] for photo in photos], dim=1) for name in photos[0].added},
            condition=condition,
            scheduler=networks.scheduler,
            tiles=self.plan.tiles,
            start_timestep=start,
            guidance_scale=settings.guidance_scale,
            conditioning_scale=settings.conditioning_scale,
            tile_batch=self.plan.tile_batch,
            guidance_interval=settings.guidance_interval,
            reuse_interval=settings.reuse_interval,
            compiled=networks.execution.compile is not None,
            optimizations=networks.optimizations,
        )

    def _sampled(self, denoiser: GuidedDenoiser, latents: Tensor, generators: list[torch.Generator]) -> Tensor:
        """What the sampler makes of noisy latents, B C h w."""
        steps = self.plan.settings.num_inference_steps
        after_step = for_sampler(self.callback) if self.callback else None
        with blamed_on("sampler", self.sampler):
            try:
                clean = self.sampler.sample(
                    denoiser, latents, num_inference_steps=steps, generators=generators, callback=after_step
                )
            except WrongLatents as error:
                raise wrong("sampler", self.sampler, str(error)) from error
        shape, dtype, device = latents.shape, latents.dtype, latents.device
        return checked_tensor("sampler", self.sampler, clean, "denoised latents", shape, dtype=dtype, device=device)


def _encoded(
    image: Tensor, upscaled: Tensor, networks: Networks, generators: list[torch.Generator] | None = None
) -> Tensor:
    """The latents of an image, B C h w, in the dtype of ``upscaled``; ``image`` and ``upscaled``: B 3 H W in [0, 1]."""
    backbone, channels = networks.backbone, networks.unet.config.in_channels
    batch, _, height, width = image.shape
    drawn = () if generators is None else (generators,)
    with blamed_on("backbone", backbone):
        latents = backbone.encode(2 * image - 1, upscaled, *drawn)
    shape = (batch, channels, height // networks.stride, width // networks.stride)
    return checked_tensor("backbone", backbone, latents, "encoded latents", shape, device=image.device).to(upscaled)


def start_timestep(networks: Networks, settings: ResolvedSettings, with_latents: bool) -> int:
    """The training timestep at which sampling begins. -1: nothing is sampled, and the start latents are decoded.

    Args:
        networks: The networks, with their noise schedule and defaults.
        settings: The settings. The lower the fidelity, the more noise there is at the start.
        with_latents: Whether start latents are given. They are treated as pure noise.
    """
    if networks.unet is None:
        return -1
    if with_latents:
        return networks.schedule.last
    noise = 1 - settings.fidelity
    if networks.defaults.start != "lr" and noise:
        noise = 1  # such a model starts from its one noise level, and fidelity blends the results
    return round(noise * networks.defaults.noisiest_start * (networks.schedule.last + 1)) - 1


def _photo_latents(upscaled: Tensor, resized: Tensor, networks: Networks) -> Tensor:
    """Latents of the photo itself, B C h w: zero if they are residuals to the upscaled photo, and that is bicubic."""
    photo, base = (image.to(networks.dtype) for image in (resized, upscaled))
    return _encoded(photo, base, networks)


def _estimate_mean(denoiser: GuidedDenoiser, photo: Tensor, networks: Networks) -> Tensor:
    """Latents of the mean of all sharp photos that fit the input, B C h w.

    The model predicts them at the last timestep from the latents of the photo itself, as in training.
    """
    mean = denoiser.clean(photo, networks.schedule.last).to(photo)  # autocast returns half precision
    if not is_finite(mean):
        raise NonFiniteResult(f"The stage denoise gave an estimate of the mean that is not finite{of_photo()}.")
    denoiser.restart()  # sampling continues at other timesteps
    return mean


def _checked_start(given: Sequence[Tensor], upscaled: Tensor, networks: Networks) -> Tensor:
    """The start latents that the caller gave for each photo, as a batch.

    Raises:
        ConfigError: They are no tensors of the right shape, or not finite.
    """
    height, width = (side // networks.stride for side in upscaled.shape[-2:])
    shape = (1, networks.unet.config.in_channels, height, width)
    for latents in given:
        if not isinstance(latents, Tensor) or latents.shape != shape or not latents.is_floating_point():
            is_tensor = isinstance(latents, Tensor)
            found = f"{latents.dtype} of shape {tuple(latents.shape)}" if is_tensor else type(latents).__name__
            raise ConfigError(f"latents must be floating-point numbers of shape {shape}{of_photo()}, not {found}.")
        if not is_finite(latents):
            raise ConfigError("latents hold NaN or infinity.")
    return torch.cat(list(given))


def _start_latents(
    timestep: int,
    upscaled: Tensor,
    generators: Sequence[torch.Generator],
    noise: Tensor | None,
    mean: Tensor | None,
    networks: Networks,
) -> Tensor:
    """Latents of the mean or, if there is none, of the upscaled photo, with the noise of a timestep."""
    clean = mean
    if clean is None:
        upscaled = upscaled.to(networks.dtype)
        clean = _encoded(upscaled, upscaled, networks, list(generators))
    if timestep < 0:
        return clean
    if noise is None:  # each image has its own generator, so that its noise does not depend on the batch
        noise = torch.cat([torch.randn((1, *clean.shape[1:]), generator=generator) for generator in generators])
    return networks.schedule.add_noise(clean, noise.to(clean), timestep)
