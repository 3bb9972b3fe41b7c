"""Euler's method at the noise levels of Karras et al. (arXiv 2206.00364)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from pydantic import Field
from torch import Tensor

from xpsr_sdk import Denoiser, Options, StepCallback


class MyPluginSampler:
    """See ``xpsr_sdk.Sampler`` for the contract."""

    class Config(Options):
        """The options: checked before the class is built, and shown by ``xpsr plugins show``."""

        rho: float = Field(7.0, ge=1, le=20, description="The higher, the more steps are spent at low noise levels.")

    def __init__(self, config: Config | None = None) -> None:
        self.config = config or self.Config()

    def sample(
        self,
        denoiser: Denoiser,
        latents: Tensor,
        *,
        num_inference_steps: int,
        generators: Sequence[torch.Generator],
        callback: StepCallback | None = None,
    ) -> Tensor:
        """Denoise latents, B C h w of unit variance at the noise level of ``denoiser.start_timestep``."""
        # The noise level of each training timestep, as sigma in x = x_0 + sigma * noise.
        sigmas = ((1 - denoiser.alphas_cumprod) / denoiser.alphas_cumprod) ** 0.5
        count = min(num_inference_steps, denoiser.start_timestep + 1)
        levels = self._levels(float(sigmas[denoiser.start_timestep]), float(sigmas[0]), count)
        x = latents * (1 + levels[0] ** 2) ** 0.5
        for step, (sigma, following) in enumerate(pairwise(levels)):
            slope = (x - denoiser.denoised(x, sigma)) / sigma
            x = x + (following - sigma) * slope
            # A sampler that adds noise draws it here, the noise of image i from generators[i].
            if callback is not None:
                shown = x / (1 + following**2) ** 0.5
                given = callback(step, int((sigmas - sigma).abs().argmin()), shown)
                if given is not shown:  # the user has replaced them
                    x = given * (1 + following**2) ** 0.5
        return x

    def _levels(self, highest: float, lowest: float, count: int) -> list[float]:
        """``count`` noise levels from the highest to the lowest, followed by zero."""
        rho = self.config.rho
        first, last = highest ** (1 / rho), lowest ** (1 / rho)
        shares = [i / max(count - 1, 1) for i in range(count)]
        return [*((first + share * (last - first)) ** rho for share in shares), 0.0]
