"""Heun's method, and Restart sampling on top of it.

Heun's method is algorithm 1 of Karras et al., arXiv 2206.00364: a step of Euler's, then the mean of the slopes at both
its ends. Restart is algorithm 1 of Xu et al., "Restart Sampling for Improving Generative Processes", arXiv 2306.14878:
where the way down reaches the lower end of an interval, noise takes it back to the upper end, and it goes down again,
several times. The noise washes out what errors have accumulated, and the steps between have no noise to pay for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from xpsr_kdiffusion.noise_levels import NoiseLevels, Trajectory
from xpsr_sdk import Denoiser, Options, StepCallback


class Restart(Options):
    """An interval of noise levels that is gone through again."""

    low: float = Field(0.1, gt=0, description="Lower end; the visited noise level nearest to it is taken.")
    high: float = Field(2.0, gt=0, description="Upper end; at most the noise level at which sampling begins.")
    times: int = Field(1, ge=1, le=100, description="How often.")
    share: float = Field(0.4, gt=0, lt=1, description="Share of the model evaluations that is spent in it.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low is {self.low}: it must be less than high, {self.high}")
        return self


class RestartSampler:
    """Heun's method with restarts; without restarts, Heun's method alone.

    Model evaluations are counted, not steps: a step of Heun's method takes two. Where a restart's share is too small
    for one step each time, it is left out.
    """

    class Config(NoiseLevels):
        """Noise levels and restarts."""

        restarts: tuple[Restart, ...] = Field(
            (Restart(),), description="Intervals that are gone through again: low, high, times, share."
        )

        @model_validator(mode="after")
        def _check(self) -> Self:
            total = sum(restart.share for restart in self.restarts)
            if total >= 1:
                raise ValueError(f"the restarts' shares sum to {total:g}: it must be less than 1")
            return self

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
            ConfigError: There are restarts and not one generator for each image.
        """
        way = Trajectory(denoiser, latents, generators, callback)
        restarts = [restart for restart in self.config.restarts if restart.low < way.highest]
        counts = [int(restart.share * num_inference_steps / (2 * restart.times)) for restart in restarts]
        in_restarts = sum(2 * restart.times * count for restart, count in zip(restarts, counts, strict=True))
        evaluations = num_inference_steps - in_restarts
        # Of n steps the last ones, to zero and (with an even number of evaluations) before it, are Euler's.
        levels = way.levels(self.config, evaluations // 2 + 1)
        second_order = evaluations - (len(levels) - 1)
        x = way.start
        for i, (sigma, following) in enumerate(pairwise(levels)):
            x = _step(way, x, sigma, following, second_order=i < second_order)
            for restart, count in zip(restarts, counts, strict=True):
                if following and following == _nearest(levels[1:-1], restart.low):
                    x = self._restart(way, x, following, restart, count)
        return way.finish(x)

    def _restart(self, way: Trajectory, x: Tensor, low: float, restart: Restart, count: int) -> Tensor:
        """Go up to the interval's upper end and down again in ``count`` steps, as often as it says."""
        high = min(restart.high, way.highest)
        if not count or high <= low:
            return x
        for _ in range(restart.times):
            x = x + math.sqrt(high**2 - low**2) * way.noise()
            for sigma, following in pairwise(self.config.between(high, low, count + 1)):
                x = _step(way, x, sigma, following, second_order=True)
        return x


def _step(way: Trajectory, x: Tensor, sigma: float, following: float, second_order: bool) -> Tensor:
    """A step of Heun's method, or of Euler's."""
    slope = (x - way.denoised(x, sigma)) / sigma
    there = x + (following - sigma) * slope
    if second_order and following:
        slope_there = (there - way.denoised(there, following)) / following
        there = x + (following - sigma) * (slope + slope_there) / 2
    return way.report(there, sigma, following)


def _nearest(levels: Sequence[float], level: float) -> float | None:
    return min(levels, key=lambda other: abs(math.log(other / level)), default=None)
