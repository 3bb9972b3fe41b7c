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
    """L_D, the mean of each image's error times its weight (B).

    ``mse`` is the mean squared error. ``log-mse`` is its logarithm. Like PSNR, it measures relative improvements, so
    that images that are impossible to restore do not dominate the loss.
    """
    if weights is None and error == "mse":
        return mse_loss(prediction.float(), target.float())
    each = (prediction.float() - target.float()).square().flatten(1).mean(1)
    if error == "log-mse":
        each = (each + 1e-3).log()
    return each.mean() if weights is None else (each * weights).mean()


def timestep_weights(schedule: NoiseSchedule, timesteps: Tensor, loss: LossSection) -> Tensor | None:
    """The weight of each image's L_D (B), or None if all are equal.

    min-SNR (arXiv 2303.09556) weights the error of the clean latents by min(SNR, gamma). The weights are converted to
    the prediction type of the model.
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
    """The two parts of L_DFC, the Degradation-Free Constraint, without their weight.

    Args:
        rgbs: Images that the conditioning encoder predicts, B 3 H/2^k W/2^k.
        latent_predictions: Latents that the ControlNet's residuals predict, B C h/2^k w/2^k.
        hr: The sharp images, B 3 H W in [-1, 1].
        hr_latents: Their latents, B C h w.

    Returns:
        The mean L1 distances to the resized images and to the resized latents, each summed over the heads.
    """
    return _sum_of_l1(rgbs, hr), _sum_of_l1(latent_predictions, hr_latents)


def _sum_of_l1(predictions: Sequence[Tensor], target: Tensor) -> Tensor:
    total = torch.zeros((), device=target.device)
    for prediction in predictions:
        resized = interpolate(target.float(), size=prediction.shape[-2:], mode="bilinear")
        total = total + l1_loss(prediction.float(), resized)
    return total
