"""The objective of training as one module: from latents and text to the terms of the loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor, nn

from xpsr_sdk.models.controlnet import condition_of
from xpsr_sdk.models.schedule import NoiseSchedule
from xpsr_sdk.training.config import LossSection
from xpsr_sdk.training.losses import constraint_losses, diffusion_loss, timestep_weights


@dataclass(frozen=True)
class StepInputs:
    """The inputs of the losses of a step.

    Attributes:
        hr: The HR images, B 3 H W in [-1, 1].
        resized: The LR images, resized to the HR size, B 3 H W in [0, 1].
        upscaled: The LR images, enlarged by the model's upscaler, B 3 H W in [0, 1].
        latents: Latents of the HR images, B C h w.
        photo: Latents of the LR images, B C h w, from which the model estimates the mean.
        noise: Noise, B C h w.
        timesteps: Timesteps, B.
        high: High-level text, B T D.
        low: Low-level text, B T D.
        from_estimate: For which images noise is added to the model's estimate of the mean instead of ``latents``, B.
        added: What the networks take besides the text, B and more dimensions each.
    """

    hr: Tensor
    resized: Tensor
    upscaled: Tensor
    latents: Tensor
    photo: Tensor
    noise: Tensor
    timesteps: Tensor
    high: Tensor
    low: Tensor
    from_estimate: Tensor
    added: Mapping[str, Tensor] = field(default_factory=dict)

    def where(self, chosen: Tensor) -> StepInputs:
        """The inputs of those images for which ``chosen`` (B, booleans) is true."""
        tensors = {each.name: getattr(self, each.name)[chosen] for each in fields(self) if each.name != "added"}
        return StepInputs(**tensors, added={name: x[chosen] for name, x in self.added.items()})

    def tensors(self) -> dict[str, Tensor]:
        """All tensors, by their names."""
        return {each.name: getattr(self, each.name) for each in fields(self) if each.name != "added"} | {**self.added}


PerceptualLoss = Callable[[Tensor, StepInputs], Tensor]
"""``loss(clean, inputs)``, where ``clean`` are the estimates of the clean latents, B C h w."""


class Objective(nn.Module):
    """The forward pass and the losses. It is one module, because DDP wraps one module.

    Args:
        unet: Predicts the noise.
        controlnet: Conditions the U-Net on the input.
        text_encoder: The text encoder, or a list of them. It is not called here, but DDP must average its gradients.
        schedule: The noise schedule.
        loss: The options of the loss.
        perceptual: The perceptual term. None: there is none.
    """

    def __init__(
        self,
        unet: nn.Module,
        controlnet: Any,
        text_encoder: nn.Module,
        schedule: NoiseSchedule,
        loss: LossSection,
        perceptual: PerceptualLoss | None,
    ) -> None:
        super().__init__()
        self.unet, self.controlnet, self.text_encoder = unet, controlnet, text_encoder
        self.schedule, self.loss, self.perceptual = schedule, loss, perceptual

    def forward(self, inputs: StepInputs) -> dict[str, Tensor]:
        """Compute each term of the loss, with its weight, and their sum."""
        schedule, loss, t = self.schedule, self.loss, inputs.timesteps
        start = self._start(inputs)
        noisy = schedule.add_noise(start, inputs.noise, t)
        if loss.mean_share:
            # At the last timestep there is almost no signal, so the best prediction is the mean, which needs no noise.
            noisy = torch.where((t == schedule.last).view(-1, 1, 1, 1), inputs.photo, noisy)
        out, prediction = self._predict(noisy, t, inputs, heads=loss.constraint_weight > 0)
        signal, level = schedule.levels(t, start)
        noise = inputs.noise + (signal / level) * (
            start - inputs.latents
        )  # the noise in noisy, relative to the latents
        target = schedule.target(inputs.latents, noise, t)
        pixel, latent = constraint_losses(out.rgbs, out.latents, inputs.hr, inputs.latents)
        terms = {
            "loss_diffusion": diffusion_loss(prediction, target, timestep_weights(schedule, t, loss), loss.error),
            "loss_dfc_pixel": loss.constraint_weight * pixel,
            "loss_dfc_latent": loss.constraint_weight * latent,
        }
        if self.perceptual:
            clean = schedule.clean(prediction, noisy, t)
            terms["loss_perceptual"] = loss.perceptual_weight * self.perceptual(clean, inputs)
        return {"loss": torch.stack(list(terms.values())).sum(), **terms}

    def _predict(self, noisy: Tensor, t: Tensor, inputs: StepInputs, heads: bool) -> tuple[Any, Tensor]:
        condition = condition_of(self.controlnet, inputs.upscaled, inputs.resized)
        added: Any = {"added_cond_kwargs": inputs.added}
        out: Any = self.controlnet(noisy, t, inputs.high, condition, inputs.low, heads=heads, **added)
        residuals = out.down_block_res_samples, out.mid_block_res_sample
        return out, self.unet(noisy, t, inputs.high, inputs.low, *residuals, **added).sample.float()

    @torch.no_grad()
    def _start(self, inputs: StepInputs) -> Tensor:
        """The latents that noise is added to: those of the HR images, or for some images the estimated mean."""
        chosen = inputs.from_estimate & (inputs.timesteps < self.schedule.last)
        if not chosen.any():
            return inputs.latents
        some = inputs.where(chosen)
        last = torch.full_like(some.timesteps, self.schedule.last)
        _, prediction = self._predict(some.photo, last, some, heads=False)
        start = inputs.latents.clone()
        start[chosen] = self.schedule.clean(prediction, some.photo, last)
        return start
