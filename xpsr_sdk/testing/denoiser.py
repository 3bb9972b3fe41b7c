"""A denoiser whose correct predictions are known, for tests of samplers."""

from __future__ import annotations

import torch
from diffusers import DDIMScheduler
from torch import Tensor

from xpsr_sdk.models.schedule import NoiseSchedule
from xpsr_sdk.testing.tensors import noise


class GaussianDenoiser:
    """Predicts what a perfect model of independent normal numbers would predict. Implements ``xpsr_sdk.Denoiser``.

    The posterior mean of ``x_0 ~ N(mean, std^2)`` given ``x = x_0 + sigma * noise`` is
    ``mean + std^2 / (std^2 + sigma^2) * (x - mean)``; the predictions follow from it. A sampler that solves the
    diffusion equation turns the latents of ``start`` into numbers of that distribution. The noise schedule is that of
    Stable Diffusion.

    Args:
        mean: The mean of the data.
        std: The standard deviation of the data. 0: all numbers equal the mean.
        prediction_type: ``"epsilon"``, ``"v_prediction"`` or ``"sample"``.
        start_timestep: The timestep at which sampling begins, 0 to 999.
    """

    def __init__(
        self, mean: float = 0.3, std: float = 0.5, prediction_type: str = "epsilon", start_timestep: int = 999
    ) -> None:
        self.mean, self.std = mean, std
        self.prediction_type, self.start_timestep = prediction_type, start_timestep
        self.scheduler = DDIMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            clip_sample=False,
            prediction_type=prediction_type,
            timestep_spacing="trailing",
        )
        self.alphas_cumprod: Tensor = self.scheduler.alphas_cumprod
        self._schedule = NoiseSchedule(self.scheduler)

    def start(self, *shape: int, seed: int = 0) -> Tensor:
        """Random data of this distribution, B C h w, at the noise level of the start."""
        data = self.mean + self.std * noise(*shape, seed=seed)
        return self._schedule.add_noise(data, noise(*shape, seed=seed + 10_000), self.start_timestep)

    def predict(self, x_t: Tensor, t: Tensor | int) -> Tensor:
        """The perfect model's prediction for ``x_t`` (B C h w) at timestep ``t``."""
        at = torch.as_tensor(t).round().long().cpu()
        signal, level = self._schedule.levels(at, x_t.float())
        clean = self._posterior_mean(x_t.float() / signal, level / signal)
        prediction = {
            "epsilon": (x_t - signal * clean) / level,
            "v_prediction": (signal * x_t - clean) / level,  # signal * noise - level * clean, without the noise
            "sample": clean,
        }[self.prediction_type]
        return prediction.to(x_t.dtype)

    def denoised(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """The estimate of the clean latents from ``x = x_0 + sigma * noise``."""
        level = torch.as_tensor(sigma, device=x.device).float()
        level = level.reshape(-1, 1, 1, 1) if level.ndim else level
        return self._posterior_mean(x.float(), level).to(x.dtype)

    def _posterior_mean(self, x: Tensor, sigma: Tensor) -> Tensor:
        variance = self.std**2
        return self.mean + variance / (variance + sigma**2) * (x - self.mean)
