"""Variational score distillation (arXiv 2305.16213) as a term of the loss, as OSEDiff (arXiv 2406.08177) uses it."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from xpsr_sdk.contracts import Options, TrainedModel, TrainingStep
from xpsr_sdk.models.lora import add_lora


class ScoreDistillation(nn.Module):
    """Makes the estimates of a one-step model as likely as the results of the model that it was distilled from.

    Noise is added to the estimates. The teacher, a frozen copy of the model before the first step, says where sharp
    photos lie from there. The critic, the same copy with a LoRA that is trained on the estimates, says where the
    estimates lie. The estimates are moved along the difference. See ``xpsr_sdk.LossTerm`` for the contract.
    """

    class Config(Options):
        """The critic, and the noise."""

        rank: int = Field(4, ge=1, le=1024, description="Rank of the critic's LoRA.")
        lowest: float = Field(0.02, ge=0, lt=1, description="The least noise, as a share of the noise schedule.")
        highest: float = Field(0.98, gt=0, le=1, description="The most noise, likewise.")

        @model_validator(mode="after")
        def _check(self) -> Self:
            if self.lowest >= self.highest:
                raise ValueError(f"lowest is {self.lowest}: it must be less than highest, {self.highest}.")
            return self

    def __init__(self, config: Config, model: TrainedModel) -> None:
        super().__init__()
        self.schedule = model.schedule
        self.range = round(config.lowest * self.schedule.last), round(config.highest * self.schedule.last)
        self.controlnet = _frozen(model.controlnet)
        self.unet = _frozen(model.unet)
        add_lora(self.unet, config.rank)
        for parameter in self.parameters():
            if not parameter.requires_grad and parameter.ndim > 1:
                parameter.data = parameter.data.to(model.frozen_dtype)

    def forward(self, step: TrainingStep, generators: Sequence[torch.Generator]) -> dict[str, Tensor]:
        """One part for the model, and one that trains the critic alone."""
        clean = step.clean.detach()
        lowest, highest = self.range
        t = torch.cat([torch.randint(lowest, highest + 1, (1,), generator=each) for each in generators])
        noise = torch.stack([torch.randn(clean.shape[1:], generator=each) for each in generators])
        t, noise = t.to(clean.device), noise.to(clean)
        noisy = self.schedule.add_noise(clean, noise, t)
        with torch.no_grad():
            control = step.control(self.controlnet, noisy, t)
            self.unet.disable_adapters()
            of_teacher = self.schedule.clean(step.predict(self.unet, noisy, t, control), noisy, t)
            self.unet.enable_adapters()
        prediction = step.predict(self.unet, noisy, t, control)
        of_critic = self.schedule.clean(prediction.detach(), noisy, t)
        # The scale of distribution matching distillation (arXiv 2311.18828) makes all noise levels count alike.
        scale = (clean - of_teacher).abs().mean(dim=(1, 2, 3), keepdim=True)
        wanted = clean - (of_critic - of_teacher) / scale.clamp(min=1e-6)
        target = self.schedule.target(clean, noise, t)
        return {"model": (step.clean - wanted).square().mean(), "critic": (prediction - target).square().mean()}


def _frozen(network: Any) -> Any:
    return deepcopy(network).requires_grad_(False).eval()
