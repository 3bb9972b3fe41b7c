"""Samplers made of the schedulers of diffusers."""

from __future__ import annotations

from collections.abc import Sequence
from inspect import signature
from typing import Any

import diffusers
import torch
from pydantic import Field
from torch import Tensor

from xpsr_sdk.contracts import Denoiser, Options, StepCallback
from xpsr_sdk.errors import ConfigError, did_you_mean


class DiffusersSampler:
    """Samples with any scheduler of diffusers that is compatible with the model's own.

    Each call makes a new scheduler from the model's own noise schedule, since schedulers hold state. To begin at a
    timestep before the last one, the later timesteps are cut off, which leaves a complete noise schedule.
    """

    class Config(Options):
        """The scheduler and its options."""

        scheduler: str = Field("UniPCMultistepScheduler", description="Class name of a diffusers scheduler.")
        options: dict[str, Any] = Field(
            default_factory=dict, description="Options of that scheduler that differ from the model's own."
        )

    def __init__(self, config: Config | None = None) -> None:
        self.config = config or self.Config()
        scheduler_class = getattr(diffusers, self.config.scheduler, None)
        if scheduler_class is None or not hasattr(scheduler_class, "set_timesteps"):
            raise ConfigError(f"diffusers has no scheduler {self.config.scheduler!r}.")
        known = signature(scheduler_class.__init__).parameters.keys() - {"self"}
        for option in self.config.options:
            if option not in known:
                raise ConfigError(f"{self.config.scheduler} has no option {option!r}. {did_you_mean(option, known)}")
        self._class = scheduler_class

    def sample(
        self,
        denoiser: Denoiser,
        latents: Tensor,
        *,
        num_inference_steps: int,
        generators: Sequence[torch.Generator],
        callback: StepCallback | None = None,
    ) -> Tensor:
        """See ``xpsr_sdk.Sampler``."""
        scheduler = self._scheduler_for(denoiser, num_inference_steps, latents.device)
        if float(scheduler.init_noise_sigma) != 1:
            # Such a scheduler expects x_0 + sigma * noise, but these latents have unit variance.
            latents = latents * (1 + scheduler.sigmas[0] ** 2) ** 0.5
        extra = {"generator": list(generators)} if "generator" in signature(scheduler.step).parameters else {}
        for i, t in enumerate(scheduler.timesteps):  # which stay the same
            model_input = scheduler.scale_model_input(latents, t)
            prediction = denoiser.predict(model_input, t)
            latents = scheduler.step(prediction, t, latents, **extra, return_dict=False)[0]
            if callback:
                given = callback(i, int(t), latents)
                if given is not latents and hasattr(scheduler, "set_begin_index"):  # those without it keep no past
                    # What a scheduler remembers is of other latents: a fresh one goes on from here.
                    scheduler = self._scheduler_for(denoiser, num_inference_steps, latents.device)
                    scheduler.set_begin_index(i + 1)
                latents = given
        return latents

    def _scheduler_for(self, denoiser: Denoiser, steps: int, device: torch.device) -> Any:
        """A fresh scheduler, at the start of the steps."""
        options = dict(self.config.options)
        last = len(denoiser.alphas_cumprod) - 1
        if denoiser.start_timestep < last:
            count = denoiser.start_timestep + 1
            options |= {"num_train_timesteps": count, "trained_betas": denoiser.scheduler.betas[:count].tolist()}
            # These betas are rescaled already. "leading" would skip the start timestep, whose noise the latents have.
            options |= {"rescale_betas_zero_snr": False, "timestep_spacing": "trailing"}
        config = {k: v for k, v in denoiser.scheduler.config.items() if not k.startswith("_")}
        scheduler = self._class.from_config({**config, **options})
        scheduler.set_timesteps(min(steps, denoiser.start_timestep + 1), device=device)
        return scheduler
