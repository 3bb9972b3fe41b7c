"""Samplers out of diffusers' schedulers: what can be chosen, and what is refused."""

from __future__ import annotations

import pytest

from xpsr_sdk import ConfigError, Registry
from xpsr_sdk.builtin.samplers import DiffusersSampler


@pytest.mark.parametrize(
    "name",
    [component.spec.name for component in Registry([]).components("sampler") if component.spec.name != "one-step"],
)
def test_every_preset_has_only_options_that_its_scheduler_knows(registry: Registry, name: str) -> None:
    assert isinstance(registry.create("sampler", name), DiffusersSampler)


def test_a_misspelt_option_of_a_scheduler_is_named(registry: Registry) -> None:
    message = r"DPMSolverMultistepScheduler has no option 'solver_ordr'\. Did you mean 'solver_order'\?"
    with pytest.raises(ConfigError, match=message):
        registry.create("sampler", {"name": "dpmpp-2m", "options": {"solver_ordr": 3}})


@pytest.mark.parametrize("options", [{"num_train_timesteps": 10**9}, {"original_inference_steps": 0}])
def test_a_noise_schedule_without_end_is_refused(registry: Registry, options: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(options))}: must be at"):
        registry.create("sampler", {"name": "diffusers", "scheduler": "LCMScheduler", "options": options})


@pytest.mark.parametrize("scheduler", ["EulerScheduler", "AutoencoderKL"])
def test_what_is_no_scheduler_is_refused(registry: Registry, scheduler: str) -> None:
    with pytest.raises(ConfigError, match=f"diffusers has no scheduler '{scheduler}'"):
        registry.create("sampler", {"name": "dpmpp-2m", "scheduler": scheduler})
