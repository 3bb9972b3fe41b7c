"""The objective of training as one module: from latents and text to the terms of the loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from xpsr_sdk.contracts import TrainedModel, text_encoders_of
from xpsr_sdk.models.controlnet import condition_of
from xpsr_sdk.plugin_system.answers import blamed_on
from xpsr_sdk.training.config import LossSection
from xpsr_sdk.training.terms import Terms


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
        positions: The positions of the images in the run, B.
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
    positions: Tensor
    added: Mapping[str, Tensor] = field(default_factory=dict)

    def where(self, chosen: Tensor) -> StepInputs:
        """The inputs of those images for which ``chosen`` (B, booleans) is true."""
        tensors = {each.name: getattr(self, each.name)[chosen] for each in fields(self) if each.name != "added"}
        return StepInputs(**tensors, added={name: x[chosen] for name, x in self.added.items()})

    def tensors(self) -> dict[str, Tensor]:
        """All tensors, by their names."""
        return {each.name: getattr(self, each.name) for each in fields(self) if each.name != "added"} | {**self.added}


class Step:
    """What the model made of the inputs of a step. See ``xpsr_sdk.TrainingStep``.

    Args:
        inputs: The inputs.
        model: The model.
        start: The latents that noise was added to, B C h w.
        noisy: The noisy latents, B C h w.
        heads: Whether the ControlNet computes what only training reads.
        one_step: Whether the estimates are to have detail even at the last timestep.
    """

    def __init__(
        self,
        inputs: StepInputs,
        model: TrainedModel,
        start: Tensor,
        noisy: Tensor,
        heads: bool = False,
        one_step: bool = False,
    ) -> None:
        self._inputs, self._model, self._start, self._one_step = inputs, model, start, one_step
        self.hr, self.resized, self.upscaled = inputs.hr, inputs.resized, inputs.upscaled
        self.latents, self.timesteps, self.noisy = inputs.latents, inputs.timesteps, noisy
        control = self.control(model.controlnet, noisy, inputs.timesteps, heads)
        self.rgbs: Sequence[Tensor] = control.rgbs
        self.head_latents: Sequence[Tensor] = control.latents
        self.prediction = self.predict(model.unet, noisy, inputs.timesteps, control)

    def control(self, controlnet: Any, noisy: Tensor, timesteps: Tensor, heads: bool = False) -> Any:
        """See ``xpsr_sdk.TrainingStep``."""
        given = self._inputs
        condition = condition_of(controlnet, given.upscaled, given.resized)
        added: Any = {"added_cond_kwargs": given.added}
        return controlnet(noisy, timesteps, given.high, condition, given.low, heads=heads, **added)

    def predict(self, unet: Any, noisy: Tensor, timesteps: Tensor, control: Any) -> Tensor:
        """See ``xpsr_sdk.TrainingStep``."""
        given, residuals = self._inputs, (control.down_block_res_samples, control.mid_block_res_sample)
        added: Any = {"added_cond_kwargs": given.added}
        prediction: Tensor = unet(noisy, timesteps, given.high, given.low, *residuals, **added).sample
        return prediction.float()

    @cached_property
    def target(self) -> Tensor:
        """See ``xpsr_sdk.TrainingStep``."""
        signal, level = self._model.schedule.levels(self.timesteps, self._start)
        # The noise in the noisy latents, relative to the HR latents.
        noise = self._inputs.noise + (signal / level) * (self._start - self.latents)
        target: Tensor = self._model.schedule.target(self.latents, noise, self.timesteps)
        return target

    @cached_property
    def clean(self) -> Tensor:
        """See ``xpsr_sdk.TrainingStep``."""
        clean: Tensor = self._model.schedule.clean(self.prediction, self.noisy, self.timesteps)
        return clean

    @cached_property
    def has_detail(self) -> Tensor:
        """See ``xpsr_sdk.TrainingStep``."""
        return (self.timesteps < self._model.schedule.last) | self._one_step

    @cached_property
    def images(self) -> Tensor:
        """See ``xpsr_sdk.TrainingStep``."""
        chosen, backbone = self._chosen, self._model.backbone
        if not len(self.references):
            return self.references
        # Autoencoders need full precision.
        with torch.autocast(self.hr.device.type, enabled=False), blamed_on("backbone", backbone):
            images = backbone.decode(self.clean[chosen], self.upscaled[chosen])
        return (images + 1) / 2

    @cached_property
    def references(self) -> Tensor:
        """See ``xpsr_sdk.TrainingStep``."""
        return (self.hr[self._chosen] + 1) / 2

    @property
    def _chosen(self) -> Tensor | slice:
        """The images whose estimate is to have detail, as an index."""
        return slice(None) if self._one_step else self.has_detail


class Objective(nn.Module):
    """The forward pass and the losses. It is one module, because DDP wraps one module.

    Args:
        model: The model. Its text encoders are not called here, but DDP must average their gradients.
        loss: How noise is added.
        terms: The terms of the loss.
        one_step: Whether the model learns to restore in one evaluation, from the latents of the photo itself.
    """

    def __init__(self, model: TrainedModel, loss: LossSection, terms: Terms, one_step: bool = False) -> None:
        super().__init__()
        self.unet, self.controlnet = model.unet, model.controlnet
        self.text_encoders = nn.ModuleList(text_encoders_of(model.backbone).values())
        self.model, self.loss, self.terms, self.one_step = model, loss, terms, one_step

    def forward(self, inputs: StepInputs) -> dict[str, Tensor]:
        """Compute each term of the loss, with its weight, and their sum."""
        step = self._of_photo(inputs) if self.one_step else self._of_noise(inputs)
        terms = self.terms(step, inputs.positions)
        return {"loss": torch.stack(list(terms.values())).sum(), **terms}

    def _of_photo(self, inputs: StepInputs) -> Step:
        """The evaluation of a model that restores in one step."""
        # Its input is the photo's latents. What they lack of the HR latents is the noise of this timestep.
        signal, level = self.model.schedule.levels(inputs.timesteps, inputs.photo)
        inputs = replace(inputs, noise=(inputs.photo - signal * inputs.latents) / level)
        return Step(inputs, self.model, inputs.latents, inputs.photo, self.terms.read_heads, one_step=True)

    def _of_noise(self, inputs: StepInputs) -> Step:
        """The evaluation of a model that removes noise, or estimates the mean."""
        schedule, t = self.model.schedule, inputs.timesteps
        start = self._start(inputs)
        noisy = schedule.add_noise(start, inputs.noise, t)
        if self.loss.mean_share:
            # At the last timestep there is almost no signal, so the best prediction is the mean, which needs no noise.
            noisy = torch.where((t == schedule.last).view(-1, 1, 1, 1), inputs.photo, noisy)
        return Step(inputs, self.model, start, noisy, self.terms.read_heads)

    @torch.no_grad()
    def _start(self, inputs: StepInputs) -> Tensor:
        """The latents that noise is added to: those of the HR images, or for some images the estimated mean."""
        if not self.loss.estimate_share:
            return inputs.latents
        last = self.model.schedule.last
        chosen = inputs.from_estimate & (inputs.timesteps < last)
        if not chosen.any():
            return inputs.latents
        some = inputs.where(chosen)
        some = replace(some, timesteps=torch.full_like(some.timesteps, last))
        start = inputs.latents.clone()
        start[chosen] = Step(some, self.model, some.photo, some.photo).clean
        return start
