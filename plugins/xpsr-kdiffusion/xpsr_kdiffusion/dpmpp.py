"""DPM-Solver++ of second order, in its multistep form, for the ODE and the SDE of diffusion.

Lu et al., "DPM-Solver++: Fast Solver for Guided Sampling of Diffusion Probabilistic Models", arXiv 2211.01095:
algorithm 2 (2M) and, for the SDE, equation 18 of appendix A. In noise levels, with lambda = -log(sigma), a step of
size h = lambda' - lambda is

    x' = sigma'/sigma e^(-eta h) x + (1 - e^(-(1 + eta) h)) D + sigma' sqrt(1 - e^(-2 eta h)) noise

where D extrapolates the last two estimates of the clean latents to the middle of the step. eta = 0 is the ODE.
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


class DPMSolverPP2M:
    """DPM++ 2M and 2M SDE: one model evaluation a step, second order. See the module for the formula."""

    class Config(NoiseLevels):
        """Noise levels, and how much noise is added."""

        eta: float = Field(
            1.0, ge=0, le=2, description="How much of the noise is renewed on the way: 1 the SDE, 0 none (the ODE)."
        )

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
        x, eta = way.start, self.config.eta
        before, step_before = None, 0.0  # the last estimate of the clean latents, and the last h
        for sigma, following in pairwise(way.levels(self.config, num_inference_steps)):
            clean = way.denoised(x, sigma)
            if following == 0:
                x = clean
            else:
                h = math.log(sigma / following)
                middle = clean if before is None else clean + (clean - before) * (h / step_before / 2)
                x = following / sigma * math.exp(-eta * h) * x - math.expm1(-(1 + eta) * h) * middle
                if eta:
                    x = x + following * math.sqrt(-math.expm1(-2 * eta * h)) * way.noise()
                before, step_before = clean, h
            shown, x = x, way.report(x, sigma, following)
            if x is not shown:  # the last estimate is of latents that the user has replaced
                before = None
        return way.finish(x)
