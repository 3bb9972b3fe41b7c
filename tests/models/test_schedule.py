"""The noise schedule, against diffusers' own."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDPMScheduler
from hypothesis import given
from hypothesis import strategies as st

from xpsr_sdk.models.schedule import NoiseSchedule

SCHEDULER = DDPMScheduler()
LATENTS, NOISE = torch.randn(2, 2, 4, 3, 5, generator=torch.Generator().manual_seed(0))
timesteps = st.lists(st.integers(0, 999), min_size=2, max_size=2).map(torch.tensor)


def schedule(kind: str = "epsilon") -> NoiseSchedule:
    return NoiseSchedule(DDPMScheduler(prediction_type=kind))


@given(t=timesteps)
def test_noise_is_added_as_diffusers_does_it(t: torch.Tensor) -> None:
    torch.testing.assert_close(schedule().add_noise(LATENTS, NOISE, t), SCHEDULER.add_noise(LATENTS, NOISE, t))


@given(t=timesteps)
def test_the_velocity_is_that_of_diffusers(t: torch.Tensor) -> None:
    expected = SCHEDULER.get_velocity(LATENTS, NOISE, t)
    torch.testing.assert_close(schedule("v_prediction").target(LATENTS, NOISE, t), expected)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
@given(t=timesteps)
def test_a_perfect_prediction_gives_the_clean_latents(kind: str, t: torch.Tensor) -> None:
    own = schedule(kind)
    clean = own.clean(own.target(LATENTS, NOISE, t), own.add_noise(LATENTS, NOISE, t), t)
    torch.testing.assert_close(clean, LATENTS, atol=1e-3, rtol=1e-3)


def test_one_timestep_stands_for_all() -> None:
    both = schedule().add_noise(LATENTS, NOISE, torch.tensor([300, 300]))
    assert torch.equal(schedule().add_noise(LATENTS, NOISE, 300), both)
    assert schedule().last == 999


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@given(t=st.integers(0, 999))
def test_half_precision_rounds_the_levels_and_no_more(dtype: torch.dtype, t: int) -> None:
    for half, exact in zip(schedule().levels(t, LATENTS.to(dtype)), schedule().levels(t, LATENTS), strict=True):
        assert torch.equal(half, exact.to(dtype))
        assert half > 0
