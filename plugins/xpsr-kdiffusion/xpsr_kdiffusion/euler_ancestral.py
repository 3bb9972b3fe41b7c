"""Ancestral sampling with Euler's method: each step removes more noise than asked for, and adds fresh one.

The split of a step's noise is that of Song et al., "Denoising Diffusion Implicit Models", arXiv 2010.02502,
equation 16, written in noise levels: eta = 1 is the variance of DDPM (arXiv 2006.11239), 0 is Euler's method.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from pydantic import Field
from torch import Tensor

from xpsr_kdiffusion.noise_levels import NoiseLevels, Trajectory
from xpsr_sdk import Denoiser, StepCallback


class EulerAncestral:
    """Euler's method with fresh noise at each step; one model evaluation a step, first order."""

    class Config(NoiseLevels):
        """Noise levels, and how much noise is added."""

        eta: float = Field(1.0, ge=0, le=1, description="How much of the noise is renewed: 1 as DDPM does, 0 none.")

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
        """See ``xpsr_sdk.Sampler``.

        Raises:
            ConfigError: ``eta`` is above 0 and there is not one generator an image.
        """
        way = Trajectory(denoiser, latents, generators, callback)
        x = way.start
        for sigma, following in pairwise(way.levels(self.config, num_inference_steps)):
            clean = way.denoised(x, sigma)
            fresh = self.config.eta * following * math.sqrt(1 - (following / sigma) ** 2)
            kept = math.sqrt(following**2 - fresh**2)
            x = clean + kept / sigma * (x - clean)
            if fresh:
                x = x + fresh * way.noise()
            x = way.report(x, sigma, following)
        return way.finish(x)
