"""The noise schedule that a model was trained with: x_t = signal * x_0 + noise_level * noise."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from xpsr_sdk.errors import CheckpointError

PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")
"""What a network may predict."""


class NoiseSchedule:
    """Adds noise and converts predictions at training timesteps, for all prediction types.

    diffusers' schedulers are not used for this, because the multistep ones add noise by their sampling schedule.

    Args:
        scheduler: A diffusers scheduler of the model.

    Raises:
        CheckpointError: It is no noise schedule of a diffusion model: that of a flow-matching model, for instance.
    """

    def __init__(self, scheduler: Any) -> None:
        self.prediction_type: str = getattr(getattr(scheduler, "config", None), "prediction_type", "none")
        self.alphas_cumprod: Tensor = getattr(scheduler, "alphas_cumprod", None)  # type: ignore[assignment]
        if not isinstance(self.alphas_cumprod, Tensor) or self.prediction_type not in PREDICTION_TYPES:
            raise CheckpointError(
                f"The scheduler {type(scheduler).__name__} (prediction_type {self.prediction_type!r}) is not the noise "
                "schedule of a diffusion model: it must have alphas_cumprod, and predict "
                f"{', '.join(PREDICTION_TYPES)}. Models made by flow matching are not supported."
            )
        self.last = len(self.alphas_cumprod) - 1
        """The noisiest timestep."""

    def levels(self, t: Tensor | int, like: Tensor) -> tuple[Tensor, Tensor]:
        """Signal and noise level at ``t`` (one timestep, or B), in a shape to be multiplied with ``like``, B C h w."""
        # In half precision the first alphas would be 1, and their noise levels 0.
        alphas = self.alphas_cumprod.to(like.device, torch.float32)[torch.as_tensor(t)].reshape(-1, 1, 1, 1)
        return alphas.sqrt().to(like), (1 - alphas).sqrt().to(like)

    def add_noise(self, latents: Tensor, noise: Tensor, t: Tensor | int) -> Tensor:
        """Latents with the noise of timestep ``t``, B C h w."""
        signal, level = self.levels(t, latents)
        return signal * latents + level * noise

    def target(self, latents: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """The training target of the U-Net, B C h w."""
        if self.prediction_type == "sample":
            return latents
        if self.prediction_type == "v_prediction":  # arXiv 2202.00512
            signal, level = self.levels(t, latents)
            return signal * noise - level * latents
        return noise

    def clean(self, prediction: Tensor, x_t: Tensor, t: Tensor | int) -> Tensor:
        """The estimate of the clean latents, B C h w, that follows from a prediction for ``x_t``."""
        if self.prediction_type == "sample":
            return prediction
        signal, level = self.levels(t, x_t)
        if self.prediction_type == "v_prediction":
            return signal * x_t - level * prediction
        return (x_t - level * prediction) / signal

    def snr(self, t: Tensor) -> Tensor:
        """The signal-to-noise ratio at each timestep (B)."""
        alphas = self.alphas_cumprod.to(t.device)[t]
        return alphas / (1 - alphas)
