"""The loss of XPSR (arXiv 2403.05049) as two terms: L_D, of diffusion, and L_DFC, the Degradation-Free Constraint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import interpolate, l1_loss, mse_loss

from xpsr_sdk.contracts import Options, TrainedModel, TrainingStep
from xpsr_sdk.models.schedule import NoiseSchedule

ErrorMeasure = Literal["mse", "log-mse"]


class DiffusionOptions(Options):
    """The options of L_D."""

    error: ErrorMeasure = Field(
        "mse", description="Of an image: its mean squared error, or the logarithm of that error, as in PSNR."
    )
    weighting: Literal["uniform", "min-snr"] = Field(
        "uniform", description="Weight by timestep: none, or min-SNR (arXiv 2303.09556)."
    )
    snr_gamma: float = Field(5.0, gt=0, description="Gamma of min-SNR.")


class DiffusionLoss(nn.Module):
    """L_D: the error of what the U-Net predicts. See ``xpsr_sdk.LossTerm`` for the contract."""

    Config = DiffusionOptions

    def __init__(self, config: DiffusionOptions, model: TrainedModel) -> None:
        super().__init__()
        self.config, self.schedule = config, model.schedule

    def forward(self, step: TrainingStep, generators: Sequence[torch.Generator]) -> Tensor:
        """The mean over the images."""
        weights = timestep_weights(self.schedule, step.timesteps, self.config)
        return diffusion_loss(step.prediction, step.target, weights, self.config.error)


class ConstraintLoss(nn.Module):
    """L_DFC: the errors of the heads of the ControlNet. See ``xpsr_sdk.LossTerm`` for the contract."""

    class Config(Options):
        """It has no options."""

    reads_heads = True

    def __init__(self, config: Config, model: TrainedModel) -> None:
        super().__init__()

    def forward(self, step: TrainingStep, generators: Sequence[torch.Generator]) -> dict[str, Tensor]:
        """The errors of the images and of the latents that the heads predict."""
        pixel, latent = constraint_losses(step.rgbs, step.head_latents, step.hr, step.latents)
        return {"pixel": pixel, "latent": latent}


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


def timestep_weights(schedule: NoiseSchedule, timesteps: Tensor, options: DiffusionOptions) -> Tensor | None:
    """The weight of each image's L_D (B), or None if all are equal.

    min-SNR (arXiv 2303.09556) weights the error of the clean latents by min(SNR, gamma). The weights are converted to
    the prediction type of the model.
    """
    if options.weighting == "uniform":
        return None
    snr = schedule.snr(timesteps)
    of_clean = snr.clamp(max=options.snr_gamma)
    if schedule.prediction_type == "sample":
        return of_clean
    if schedule.prediction_type == "v_prediction":
        return of_clean / (snr + 1)
    return (options.snr_gamma / snr).clamp(max=1)  # of_clean / snr, also where a schedule ends in pure noise: SNR 0


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
