"""Which noise levels a sampler visits, and what all samplers here do with them.

A noise level is the sigma of ``x = x_0 + sigma * noise``: the coordinates of Karras et al., "Elucidating the Design
Space of Diffusion-Based Generative Models", arXiv 2206.00364.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from xpsr_sdk import ConfigError, Denoiser, Options, StepCallback

NOISIEST_SIGNAL = 2.0**-24
"""Least signal power: a schedule that ends in pure noise would have an infinite noise level."""


class NoiseLevels(Options):
    """Options of every sampler here: how the noise levels are spaced."""

    schedule: Literal["karras", "exponential", "uniform"] = Field(
        "karras",
        description="karras: evenly spaced sigma^(1/rho); exponential: evenly spaced log(sigma); "
        "uniform: evenly spaced training timesteps.",
    )
    rho: float = Field(
        7.0, ge=1, le=100, description="Of karras: the higher, the more steps are spent at low noise levels."
    )

    def between(self, highest: float, lowest: float, count: int) -> list[float]:
        """``count`` falling noise levels from ``highest`` to ``lowest``; a single one is ``highest``."""
        shares = [i / max(count - 1, 1) for i in range(count)]
        if self.schedule == "karras":
            first, last = highest ** (1 / self.rho), lowest ** (1 / self.rho)
            return [(first + share * (last - first)) ** self.rho for share in shares]
        return [highest ** (1 - share) * lowest**share for share in shares]


class Trajectory:
    """One call of a sampler: the model, the noise levels, each image's noise.

    Computes in float32 or better; the model is asked in the dtype of the latents.

    Args:
        denoiser: The model.
        latents: B C h w at the noise level of ``denoiser.start_timestep``, with unit variance.
        generators: One for each image.
        callback: Called after each step.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        latents: Tensor,
        generators: Sequence[torch.Generator],
        callback: StepCallback | None,
    ) -> None:
        self._denoiser, self._dtype = denoiser, latents.dtype
        self._generators, self._callback = generators, callback
        signal = denoiser.alphas_cumprod.double().cpu().clamp(min=NOISIEST_SIGNAL)
        self._sigmas = ((1 - signal) / signal).sqrt()
        self._steps = 0
        self.highest = float(self._sigmas[denoiser.start_timestep])
        wide = torch.promote_types(latents.dtype, torch.float32)
        self.start = latents.to(wide) * math.sqrt(1 + self.highest**2)
        """The latents as ``x_0 + sigma * noise``."""

    def levels(self, options: NoiseLevels, count: int) -> list[float]:
        """At most ``count`` falling noise levels from the start's to the least of the training, and zero behind them.

        There are no more of them than training timesteps: two steps at the same timestep would ask the same twice.
        """
        timesteps = self._denoiser.start_timestep + 1
        count = min(count, timesteps)
        if options.schedule == "uniform":
            levels = [float(self._sigmas[round(timesteps * (1 - i / count)) - 1]) for i in range(count)]
        else:
            levels = options.between(self.highest, float(self._sigmas[0]), count)
        return [*levels, 0.0]

    def denoised(self, x: Tensor, sigma: float) -> Tensor:
        """The model's estimate of the clean latents."""
        return self._denoiser.denoised(x.to(self._dtype), sigma).to(x.dtype)

    def noise(self) -> Tensor:
        """Fresh noise, B C h w, each image's from its own generator.

        Raises:
            ConfigError: There is not one generator for each image.
        """
        batch, *shape = self.start.shape
        if len(self._generators) != batch:
            raise ConfigError(
                f"{len(self._generators)} generators came with latents of {batch} images; give one for each image."
            )
        drawn = [torch.randn(shape, generator=generator, device=generator.device) for generator in self._generators]
        return torch.stack(drawn).to(self.start)

    def report(self, x: Tensor, sigma: float, following: float) -> Tensor:
        """Tell the callback of a step from ``sigma``, where the model was asked, to ``x`` at ``following``.

        Returns:
            What to go on with: ``x``, or what the callback gave instead.
        """
        if self._callback is not None:
            timestep = int((self._sigmas - sigma).abs().argmin())
            shown = (x / math.sqrt(1 + following**2)).to(self._dtype)
            given = self._callback(self._steps, timestep, shown)
            if given is not shown:
                x = given.to(x) * math.sqrt(1 + following**2)
        self._steps += 1
        return x

    def finish(self, x: Tensor) -> Tensor:
        """Return clean latents in the dtype of the input latents."""
        return x.to(self._dtype)
