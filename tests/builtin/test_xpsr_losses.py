"""The loss of XPSR."""

from __future__ import annotations

import math

import pytest
import torch
from diffusers import DDPMScheduler
from torch.nn.functional import interpolate

from xpsr_sdk.builtin.xpsr_losses import DiffusionOptions, constraint_losses, diffusion_loss, timestep_weights
from xpsr_sdk.models.schedule import NoiseSchedule

T = torch.tensor([0, 200, 600, 999])


def test_the_diffusion_loss_is_a_mean_that_weights_scale() -> None:
    prediction, target = torch.randn(4, 2, 3, 3), torch.randn(4, 2, 3, 3)
    plain = diffusion_loss(prediction, target)
    assert plain == pytest.approx((prediction - target).square().mean().item())
    assert diffusion_loss(prediction, target, torch.full((4,), 3.0)).item() == pytest.approx(3 * plain.item())
    alone = diffusion_loss(prediction, target, torch.tensor([4.0, 0, 0, 0]))
    assert alone.item() == pytest.approx((prediction - target)[0].square().mean().item())


def test_the_logarithm_counts_relative_improvements() -> None:
    target = torch.zeros(2, 1, 2, 2)
    errors = torch.tensor([4.0, 0.25]).reshape(2, 1, 1, 1).expand_as(target)
    before, after = (diffusion_loss(scale * errors, target, error="log-mse") for scale in (1.0, 0.5))
    assert (before - after).item() == pytest.approx(math.log(4), abs=0.05)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_min_snr_weighs_the_clean_error_whatever_is_predicted(kind: str) -> None:
    schedule = NoiseSchedule(DDPMScheduler(prediction_type=kind))
    weights = timestep_weights(schedule, T, DiffusionOptions(weighting="min-snr", snr_gamma=5))
    assert weights is not None
    clean, noise = torch.randn(4, 1, 2, 2), torch.randn(4, 1, 2, 2)
    noisy = schedule.add_noise(clean, noise, T)
    prediction = schedule.target(clean, noise, T) + 0.1
    error = (schedule.clean(prediction, noisy, T) - clean).square().mean((1, 2, 3))
    expected = schedule.snr(T).clamp(max=5) * error
    torch.testing.assert_close(weights * 0.1**2, expected, atol=1e-4, rtol=1e-2)


def test_uniform_weights_are_none() -> None:
    assert timestep_weights(NoiseSchedule(DDPMScheduler()), T, DiffusionOptions()) is None


def test_weights_are_finite_where_a_schedule_ends_in_pure_noise() -> None:
    schedule = NoiseSchedule(DDPMScheduler(rescale_betas_zero_snr=True))
    weights = timestep_weights(schedule, torch.tensor([500, 999]), DiffusionOptions(weighting="min-snr"))
    assert weights is not None
    assert weights.isfinite().all()
    assert weights[1] == 1


def test_perfect_heads_have_no_constraint_loss() -> None:
    hr, latents = torch.rand(1, 3, 16, 16), torch.randn(1, 4, 4, 4)
    rgbs = [interpolate(hr, size=(8, 8), mode="bilinear"), interpolate(hr, size=(4, 4), mode="bilinear")]
    heads = [latents, interpolate(latents, size=(2, 2), mode="bilinear")]
    pixel, latent = constraint_losses(rgbs, heads, hr, latents)
    assert pixel == latent == 0
    pixel, latent = constraint_losses([x + 1 for x in rgbs], heads, hr, latents)
    assert (pixel.item(), latent.item()) == pytest.approx((2, 0))
