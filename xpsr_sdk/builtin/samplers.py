"""Samplers made of the schedulers of diffusers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from inspect import signature
from typing import Any

import diffusers
import torch
from pydantic import Field
from torch import Tensor

from xpsr_sdk.contracts import Denoiser, Options, StepCallback
from xpsr_sdk.errors import ConfigError, did_you_mean
from xpsr_sdk.files.reading import validated
from xpsr_sdk.models.config_files import NetworkConfig

DISTILLED = ("LCMScheduler", "TCDScheduler")
"""Schedulers of models that were distilled to a few steps, which are best at the timesteps of their distillation."""
NOISE_ONLY = ("EulerAncestralDiscreteScheduler",)
"""Schedulers that refuse predictions of the clean latents, which are turned into predictions of the noise."""
ZERO_SIGNAL = 1e-6
"""With less signal power at its last timestep, a noise schedule has zero terminal SNR: it ends in pure noise."""
OF_EVERY_STEP = ("self", "model_output", "timestep", "sample", "generator", "return_dict")
"""The arguments of a scheduler's ``step`` that are no options."""


class DiffusersSampler:
    """Samples with any scheduler of diffusers that is compatible with the model's own.

    Each call makes a new scheduler from the model's own noise schedule, since schedulers hold state. To begin at a
    timestep before the last one, the later timesteps are cut off, which leaves a complete noise schedule. Schedulers of
    distilled models keep the whole noise schedule, and are given the timesteps to visit.
    """

    class Config(Options):
        """The scheduler and its options."""

        scheduler: str = Field("UniPCMultistepScheduler", description="Class name of a diffusers scheduler.")
        options: dict[str, Any] = Field(
            default_factory=dict, description="Options of that scheduler that differ from the model's own."
        )
        step_options: dict[str, Any] = Field(
            default_factory=dict, description="Options of each step of that scheduler, such as eta."
        )
        defaults: dict[str, Any] = Field(
            default_factory=dict, description="Settings of restorations that replace the model's defaults."
        )

    def __init__(self, config: Config | None = None) -> None:
        self.config = config or self.Config()
        name = self.config.scheduler
        scheduler_class = getattr(diffusers, name, None)
        if scheduler_class is None or not hasattr(scheduler_class, "set_timesteps"):
            raise ConfigError(f"diffusers has no scheduler {name!r}.")
        _refuse_unknown(self.config.options, scheduler_class.__init__, name)
        _refuse_unknown(self.config.step_options, scheduler_class.step, f"A step of {name}")
        validated(NetworkConfig, self.config.options, f"The table 'options' of the sampler with {name}", ConfigError)
        self._class = scheduler_class
        self.distilled = name in DISTILLED
        """Whether the result is a distilled model's estimate, see ``xpsr_sdk.Sampler``."""
        self.defaults = self.config.defaults
        """Settings that replace the model's defaults, see ``xpsr_sdk.Sampler``."""

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
        extra = dict(self.config.step_options)
        if "generator" in signature(scheduler.step).parameters:
            extra["generator"] = list(generators)
        for i, t in enumerate(scheduler.timesteps):  # which stay the same
            model_input = scheduler.scale_model_input(latents, t)
            prediction = denoiser.predict(model_input, t)
            if self._asks_for_noise(denoiser):
                prediction = (latents - prediction) / scheduler.sigmas[i]
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
        if self._asks_for_noise(denoiser):
            options["prediction_type"] = "epsilon"
        if float(denoiser.alphas_cumprod[-1]) < ZERO_SIGNAL:
            options = self._options_of_zero_snr() | options
        last, count = len(denoiser.alphas_cumprod) - 1, denoiser.start_timestep + 1
        if denoiser.start_timestep < last and not self.distilled:
            options |= {"num_train_timesteps": count, "trained_betas": denoiser.scheduler.betas[:count].tolist()}
            # These betas are rescaled already. "leading" would skip the start timestep, whose noise the latents have.
            options |= {"rescale_betas_zero_snr": False, "timestep_spacing": "trailing"}
        config = {k: v for k, v in denoiser.scheduler.config.items() if not k.startswith("_")}
        scheduler = self._class.from_config({**config, **options})
        steps = min(steps, count)
        if self.distilled:  # set_timesteps() would begin at other timesteps than the start, and complain about it
            chosen = _distilled_timesteps(denoiser.start_timestep, steps, scheduler.config)
            scheduler.timesteps, scheduler.num_inference_steps = torch.tensor(chosen, device=device), len(chosen)
        else:
            scheduler.set_timesteps(steps, device=device)
        return scheduler

    def _asks_for_noise(self, denoiser: Denoiser) -> bool:
        return denoiser.prediction_type == "sample" and self.config.scheduler in NOISE_ONLY

    def _options_of_zero_snr(self) -> dict[str, Any]:
        """What a scheduler needs for a noise schedule that ends in pure noise (arXiv 2305.08891).

        Raises:
            ConfigError: The scheduler cannot work with such a noise schedule.
        """
        options = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
        if "rescale_betas_zero_snr" not in signature(self._class.__init__).parameters:
            raise ConfigError(
                f"The noise schedule of this model ends in pure noise (rescale_betas_zero_snr), which "
                f"{self.config.scheduler} does not support: choose another sampler, such as ddim, euler or unipc."
            )
        return options


def _refuse_unknown(options: Mapping[str, Any], function: Any, whose: str) -> None:
    known = signature(function).parameters.keys() - set(OF_EVERY_STEP)
    for option in options:
        if option not in known:
            raise ConfigError(f"{whose} has no option {option!r}. {did_you_mean(option, known)}")


def _distilled_timesteps(start: int, steps: int, config: Any) -> list[int]:
    """Falling timesteps from ``start`` on, spread evenly over those of the distillation, as diffusers does it.

    If there are fewer of those than steps, all timesteps are used.

    Args:
        start: The timestep at which sampling begins.
        steps: How many there are.
        config: The config of the scheduler. The distillation visited ``original_inference_steps`` timesteps.
    """
    distance = config.num_train_timesteps // config.original_inference_steps
    highest = distance * config.original_inference_steps - 1
    known = [start, *(t for t in range(highest, 0, -distance) if t < start)]
    if steps > len(known):
        known = list(range(start, -1, -1))
    return [known[len(known) * i // steps] for i in range(steps)]
