"""The samplers: their accuracy on distributions whose solution is known, diffusers' own solvers, and the contract."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
import xpsr_kdiffusion
from diffusers import DPMSolverMultistepScheduler, EulerAncestralDiscreteScheduler
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from xpsr_sdk import ConfigError, Registry
from xpsr_sdk.testing import check_distribution, check_sampler
from xpsr_sdk.toolkit import DiffusersSampler

NAMES = ("dpmpp-2m-karras", "dpmpp-2m-sde", "euler-ancestral", "heun", "restart")
NOISY = ("dpmpp-2m-sde", "euler-ancestral", "restart")
MEAN, SPREAD = 0.5, 0.8


class GaussianDenoiser:
    """The exact denoiser of normally distributed latents; counts how often it is asked."""

    prediction_type = "epsilon"

    def __init__(self, least: float = 0.03, start_timestep: int = 999) -> None:
        sigmas = torch.logspace(math.log10(least), math.log10(14.6), 1000, dtype=torch.float64)
        self.alphas_cumprod = 1 / (1 + sigmas**2)
        self.start_timestep = start_timestep
        self.asked = 0

    def denoised(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        self.asked += 1
        return (SPREAD**2 * x + float(sigma) ** 2 * MEAN) / (SPREAD**2 + float(sigma) ** 2)

    def start(self, *shape: int, seed: int = 0) -> Tensor:
        """Noisy latents with unit variance, as a sampler is handed them."""
        generator = torch.Generator().manual_seed(seed)
        signal = float(self.alphas_cumprod[self.start_timestep])
        clean = MEAN + SPREAD * torch.randn(shape, generator=generator, dtype=torch.float64)
        noise = torch.randn(shape, generator=generator, dtype=torch.float64)
        return signal**0.5 * clean + (1 - signal) ** 0.5 * noise

    def solution(self, start: Tensor) -> Tensor:
        """Where the probability-flow ODE (arXiv 2011.13456) ends."""
        signal = float(self.alphas_cumprod[self.start_timestep])
        variance = (1 - signal) / signal
        return MEAN + (start / signal**0.5 - MEAN) * SPREAD / math.sqrt(SPREAD**2 + variance)


class WavyDenoiser:
    """Some smooth denoiser at timesteps of Stable Diffusion's noise schedule: for comparisons with diffusers."""

    prediction_type = "epsilon"

    def __init__(self) -> None:
        self.scheduler = DPMSolverMultistepScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
        self.alphas_cumprod = self.scheduler.alphas_cumprod
        self.start_timestep = 999

    def predict(self, x_t: Tensor, t: Tensor | int) -> Tensor:
        return torch.sin(2 * x_t) * 0.3 + 0.8 * x_t

    def denoised(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        x_t = x / math.sqrt(1 + float(sigma) ** 2)
        return x - float(sigma) * self.predict(x_t, 0)


def sampler(name: str, **options: Any) -> Any:
    return Registry([xpsr_kdiffusion]).create("sampler", {"name": name, **options})


def seeded(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def test_the_registry_offers_them() -> None:
    registry = Registry([xpsr_kdiffusion])
    ours = [c.spec.name for c in registry.components("sampler") if c.distribution == "xpsr_kdiffusion"]
    assert sorted(ours) == sorted(NAMES)
    assert all(component.state == "ok" for component in registry.components("sampler"))


@pytest.mark.parametrize(
    ("name", "options", "order"),
    [
        ("dpmpp-2m-karras", {}, 2),
        ("dpmpp-2m-karras", {"schedule": "exponential"}, 2),
        ("dpmpp-2m-sde", {"eta": 0}, 2),
        ("heun", {}, 2),
        ("euler-ancestral", {"eta": 0}, 1),
    ],
)
def test_order_of_convergence(name: str, options: dict[str, Any], order: int) -> None:
    def error(steps: int) -> float:
        denoiser = GaussianDenoiser(least=1e-4)
        start = denoiser.start(1, 4, 8, 8)
        end = sampler(name, **options).sample(denoiser, start, num_inference_steps=steps, generators=seeded(0))
        return float((end - denoiser.solution(start)).abs().max())

    rate = math.log2(error(100) / error(200))
    assert rate == pytest.approx(order, abs=0.35)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("schedule", ["karras", "exponential", "uniform"])
def test_the_distribution_of_the_data_is_met(name: str, schedule: str) -> None:
    denoiser = GaussianDenoiser()
    start = denoiser.start(1, 4, 128, 128)
    end = sampler(name, schedule=schedule).sample(denoiser, start, num_inference_steps=100, generators=seeded(7))
    assert float(end.mean()) == pytest.approx(MEAN, abs=0.01)
    assert float(end.std()) == pytest.approx(SPREAD, rel=0.05 if name == "euler-ancestral" else 0.03)


@pytest.mark.parametrize(
    ("name", "scheduler", "options"),
    [
        ("dpmpp-2m-karras", DPMSolverMultistepScheduler, {}),
        ("dpmpp-2m-sde", DPMSolverMultistepScheduler, {"algorithm_type": "sde-dpmsolver++"}),
        ("euler-ancestral", EulerAncestralDiscreteScheduler, {}),
    ],
)
def test_same_as_diffusers_at_the_same_noise_levels(name: str, scheduler: Any, options: dict[str, Any]) -> None:
    denoiser, start = WavyDenoiser(), torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    options = {**options, "timestep_spacing": "trailing"}
    reference = DiffusersSampler(DiffusersSampler.Config(scheduler=scheduler.__name__, options=options))
    ours, theirs = (
        one.sample(denoiser, start, num_inference_steps=20, generators=seeded(1, 2))
        for one in (sampler(name, schedule="uniform"), reference)
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["dpmpp-2m-karras", "heun"])
def test_same_end_as_diffusers_in_the_limit(name: str) -> None:
    denoiser, start = WavyDenoiser(), torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    reference = Registry([]).create("sampler", "ddim")
    exact = reference.sample(denoiser, start, num_inference_steps=1000, generators=seeded(0))
    ours = sampler(name).sample(denoiser, start, num_inference_steps=60, generators=seeded(0))
    torch.testing.assert_close(ours, exact, rtol=0, atol=0.02)


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None, max_examples=25)
@given(steps=st.integers(1, 40), start_timestep=st.integers(0, 999))
def test_spends_no_more_evaluations_than_asked_and_stays_finite(name: str, steps: int, start_timestep: int) -> None:
    denoiser = GaussianDenoiser(start_timestep=start_timestep)
    start = denoiser.start(1, 4, 2, 3)
    end = sampler(name).sample(denoiser, start, num_inference_steps=steps, generators=seeded(0))
    assert end.shape == start.shape
    assert end.isfinite().all()
    assert 1 <= denoiser.asked <= steps
    if start_timestep >= 2 * steps and name in ("heun", "dpmpp-2m-karras"):
        assert denoiser.asked == steps


@pytest.mark.parametrize("name", NOISY)
def test_an_image_depends_on_its_own_generator_alone(name: str) -> None:
    denoiser = GaussianDenoiser()
    start = denoiser.start(2, 4, 8, 8).float()
    run = sampler(name).sample
    both = run(denoiser, start, num_inference_steps=12, generators=seeded(1, 2))
    alone = run(denoiser, start[1:], num_inference_steps=12, generators=seeded(2))
    other = run(denoiser, start[1:], num_inference_steps=12, generators=seeded(3))
    torch.testing.assert_close(both[1:], alone)
    assert not torch.allclose(alone, other, atol=1e-3)


@pytest.mark.parametrize("name", NOISY)
def test_a_missing_generator_is_told(name: str) -> None:
    denoiser = GaussianDenoiser()
    with pytest.raises(ConfigError, match="1 generators came with latents of 2 images; give one for each image"):
        sampler(name).sample(denoiser, denoiser.start(2, 4, 4, 4), num_inference_steps=8, generators=seeded(0))


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_comes_back_as_such_and_close(name: str) -> None:
    denoiser = GaussianDenoiser()
    start = denoiser.start(1, 4, 8, 8)
    exact, half = (
        sampler(name).sample(denoiser, start.to(dtype), num_inference_steps=10, generators=seeded(0))
        for dtype in (torch.float64, torch.float16)
    )
    assert half.dtype == torch.float16
    assert float((half - exact).abs().max()) < 0.05


@pytest.mark.parametrize("name", NAMES)
def test_a_schedule_that_ends_in_pure_noise_is_survived(name: str) -> None:
    denoiser = GaussianDenoiser()
    denoiser.alphas_cumprod[-1] = 0.0
    end = sampler(name).sample(denoiser, denoiser.start(1, 4, 4, 4), num_inference_steps=20, generators=seeded(0))
    assert end.isfinite().all()


def test_steps_are_reported_with_falling_timesteps_and_unit_variance() -> None:
    denoiser, seen = GaussianDenoiser(), []
    sampler("dpmpp-2m-sde").sample(
        denoiser,
        denoiser.start(1, 4, 32, 32),
        num_inference_steps=8,
        generators=seeded(0),
        callback=lambda *step: seen.append(step) or step[-1],
    )
    assert [step for step, _, _ in seen] == list(range(8))
    timesteps = [timestep for _, timestep, _ in seen]
    assert timesteps[0] == 999
    assert timesteps == sorted(timesteps, reverse=True)
    assert all(0.5 < float(x.std()) < 1.3 for _, _, x in seen)


def test_restarts_visit_their_interval_again() -> None:
    def visited(**options: Any) -> list[int]:
        denoiser, seen = GaussianDenoiser(), []
        sampler("restart", **options).sample(
            denoiser,
            denoiser.start(1, 4, 4, 4),
            num_inference_steps=40,
            generators=seeded(0),
            callback=lambda step, timestep, x: seen.append(timestep) or x,
        )
        return seen

    def climbs(timesteps: list[int]) -> int:
        return sum(later > earlier for earlier, later in pairwise(timesteps))

    twice = [{"low": 0.1, "high": 2.0, "times": 2, "share": 0.5}]
    assert [climbs(visited(restarts=restarts)) for restarts in ([], twice, [*twice, twice[0] | {"share": 0.2}])] == [
        0,
        2,
        4,
    ]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("restart", {"restarts": [{"low": 2, "high": 1}]}, "low is 2.0: it must be less than high, 1.0"),
        ("restart", {"restarts": [{"share": 0.6}, {"share": 0.5}]}, "shares sum to 1.1: it must be less than 1"),
        ("heun", {"schedule": "karas"}, "schedule"),
        ("dpmpp-2m-sde", {"eta": -1}, "eta"),
        ("euler-ancestral", {"eta": 2}, "eta"),
        ("euler-ancestral", {"rho": 0.5}, "rho"),
        ("heun", {"churn": 1}, "churn"),
    ],
)
def test_impossible_options_are_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        sampler(name, **options)


@pytest.mark.parametrize("name", NAMES)
def test_the_contract(name: str) -> None:
    check_sampler(name, Registry([xpsr_kdiffusion]))


@pytest.mark.parametrize("schedule", ["exponential", "uniform"])
def test_the_contract_at_other_noise_levels(schedule: str) -> None:
    check_sampler({"name": "restart", "schedule": schedule}, Registry([xpsr_kdiffusion]))


def test_the_distribution() -> None:
    check_distribution("xpsr-kdiffusion")
