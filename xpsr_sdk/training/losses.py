"""The loss of XPSR (arXiv 2403.05049): L = L_D + lambda * L_DFC."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import interpolate, l1_loss, mse_loss

from xpsr_sdk.models.schedule import NoiseSchedule
from xpsr_sdk.training.config import ErrorMeasure, LossSection


def diffusion_loss(
    prediction: Tensor, target: Tensor, weights: Tensor | None = None, error: ErrorMeasure = "mse"
) -> Tensor:
    """L_D, each image's error times its weight (B).

    ``mse`` is the mean squared error. ``log-mse`` is its logarithm, which counts relative improvements as PSNR does, so
    that images that nobody could restore do not outweigh the others.
    """
    if weights is None and error == "mse":
        return mse_loss(prediction.float(), target.float())
    each = (prediction.float() - target.float()).square().flatten(1).mean(1)
    if error == "log-mse":
        each = (each + 1e-3).log()
    return each.mean() if weights is None else (each * weights).mean()


def timestep_weights(schedule: NoiseSchedule, timesteps: Tensor, loss: LossSection) -> Tensor | None:
    """The weight of each image's L_D (B), or None for equal ones.

    min-SNR (arXiv 2303.09556) weighs the clean-latents error by min(SNR, gamma); here for the prediction type at hand.
    """
    if loss.weighting == "uniform":
        return None
    snr = schedule.snr(timesteps)
    of_clean = snr.clamp(max=loss.snr_gamma)
    if schedule.prediction_type == "sample":
        return of_clean
    return of_clean / (snr + 1) if schedule.prediction_type == "v_prediction" else of_clean / snr


def constraint_losses(
    rgbs: Sequence[Tensor], latent_predictions: Sequence[Tensor], hr: Tensor, hr_latents: Tensor
) -> tuple[Tensor, Tensor]:
    """L_DFC, the Degradation-Free Constraint, in its two parts (unweighted).

    Args:
        rgbs: Images that the conditioning encoder predicts, B 3 H/2^k W/2^k.
        latent_predictions: Latents that the ControlNet's residuals predict, B C h/2^k w/2^k.
        hr: The sharp images, B 3 H W in [-1, 1].
        hr_latents: Their latents, B C h w.

    Returns:
        Sum over the heads of the mean L1 to the resized images, and to the resized latents.
    """
    return _sum_of_l1(rgbs, hr), _sum_of_l1(latent_predictions, hr_latents)


def _sum_of_l1(predictions: Sequence[Tensor], target: Tensor) -> Tensor:
    total = torch.zeros((), device=target.device)
    for prediction in predictions:
        resized = interpolate(target.float(), size=prediction.shape[-2:], mode="bilinear")
        total = total + l1_loss(prediction.float(), resized)
    return total
