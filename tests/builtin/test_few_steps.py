"""Samplers of distilled models, and noise schedules that end in pure noise: the same steps as those of diffusers."""

from __future__ import annotations

from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

from tests.support import tiny
from tests.support.tiny import PHOTO, same
from xpsr_sdk import ConfigError, Pipeline, Registry, build_pipeline
from xpsr_sdk.builtin.samplers import DiffusersSampler
from xpsr_sdk.testing import GaussianDenoiser

BUILT_IN = Registry([])
FEW_STEPS = ["lcm", "tcd", "hyper-sd", "lightning", "turbo"]
ZERO_SNR = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "clip_sample": False,
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
}


class Network:
    """A denoiser whose model is some smooth function, which also works at pure noise."""

    def __init__(self, scheduler: Any) -> None:
        self.scheduler, self.alphas_cumprod = scheduler, scheduler.alphas_cumprod
        self.prediction_type, self.start_timestep = scheduler.config.prediction_type, 999

    def predict(self, x_t: Tensor, t: Tensor | int) -> Tensor:
        return torch.tanh(0.8 * x_t.roll(1, -1) - float(t) / 700)


def noise(batch: int = 2) -> Tensor:
    return torch.randn(batch, 4, 6, 5, generator=torch.Generator().manual_seed(3))


def generators(batch: int = 2) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(10 + i) for i in range(batch)]


def steps_of(name: str | dict[str, Any], denoiser: Any, latents: Tensor, steps: int) -> tuple[list[int], list[Tensor]]:
    """The timesteps of our sampler, and the latents after each step."""
    timesteps: list[int] = []
    way: list[Tensor] = []

    def record(step: int, timestep: int, x: Tensor) -> Tensor:
        timesteps.append(timestep)
        way.append(x)
        return x

    sampler: DiffusersSampler = BUILT_IN.create("sampler", name)
    sampler.sample(denoiser, latents, num_inference_steps=steps, generators=generators(), callback=record)
    return timesteps, way


def steps_of_diffusers(
    scheduler: Any, denoiser: Any, latents: Tensor, steps: int, **step_options: Any
) -> tuple[list[int], list[Tensor]]:
    """The same by the loop of diffusers' own pipelines."""
    scheduler.set_timesteps(steps)
    x, way = latents * scheduler.init_noise_sigma, []
    for t in scheduler.timesteps:
        prediction = denoiser.predict(scheduler.scale_model_input(x, t), t)
        x = scheduler.step(prediction, t, x, **step_options, return_dict=False)[0]
        way.append(x)
    return [int(t) for t in scheduler.timesteps], way


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize(
    ("name", "scheduler", "step_options"),
    [
        ("lcm", diffusers.LCMScheduler, {}),
        ("tcd", diffusers.TCDScheduler, {}),
        ({"name": "tcd", "step_options": {"eta": 0.9}}, diffusers.TCDScheduler, {"eta": 0.9}),
        ({"name": "lcm", "options": {"original_inference_steps": 4}}, diffusers.LCMScheduler, {}),
    ],
)
def test_every_step_is_that_of_diffusers(
    name: str | dict[str, Any], scheduler: Any, step_options: dict[str, Any], prediction_type: str
) -> None:
    denoiser = GaussianDenoiser(prediction_type=prediction_type)
    options = name["options"] if isinstance(name, dict) and "options" in name else {}
    for steps in (1, 4):
        theirs = scheduler.from_config(denoiser.scheduler.config, **options)
        expected = steps_of_diffusers(theirs, denoiser, noise(), steps, generator=generators(), **step_options)
        timesteps, way = steps_of(name, denoiser, noise(), steps)
        assert timesteps == expected[0]
        assert all(torch.equal(a, b) for a, b in zip(way, expected[1], strict=True))


def test_few_steps_visit_the_timesteps_of_the_distillation() -> None:
    theirs = diffusers.LCMScheduler()
    for steps in range(1, 51):
        theirs.set_timesteps(steps)
        assert steps_of("lcm", GaussianDenoiser(), noise(), steps)[0] == theirs.timesteps.tolist()
    turbo = {"name": "lcm", "options": {"original_inference_steps": 4}}
    assert steps_of(turbo, GaussianDenoiser(), noise(), 4)[0] == [999, 749, 499, 249]
    later = steps_of("lcm", GaussianDenoiser(start_timestep=610), noise(), 4)[0]
    assert later == [610, 479, 319, 159]  # from the noise that there is, and then among 19, 39, 59, ...
    assert steps_of("tcd", GaussianDenoiser(start_timestep=40), noise(), 5)[0] == [40, 32, 24, 16, 8]


@pytest.mark.parametrize("name", FEW_STEPS)
def test_naming_the_sampler_gives_four_evaluations_without_guidance(sd_pipe: Pipeline, name: str) -> None:
    pipe = build_pipeline(tiny.sd_config(), sampler=name)
    calls: list[int] = []
    handle = pipe.unet.register_forward_pre_hook(lambda module, args: calls.append(len(args[0])))
    result = pipe(PHOTO, seed=0)
    handle.remove()
    assert calls == [1, 1, 1, 1]  # one image, without its negative half
    assert result.plan.settings.num_inference_steps == 4
    assert same(pipe(PHOTO, seed=0).image, result.image)
    assert pipe(PHOTO, seed=0, num_inference_steps=2, guidance_scale=2).plan.settings.guidance_scale == 2


def test_defaults_of_a_sampler_that_are_no_settings_are_named() -> None:
    message = r"The table 'defaults' of the sampler has wrong options:\n  num_inference_step: there is no such option"
    with pytest.raises(ConfigError, match=message):
        build_pipeline(sampler={"name": "lcm", "defaults": {"num_inference_step": 4}})


def test_a_misspelt_option_of_a_step_is_named() -> None:
    with pytest.raises(ConfigError, match=r"A step of TCDScheduler has no option 'etta'\. Did you mean 'eta'\?"):
        BUILT_IN.create("sampler", {"name": "tcd", "step_options": {"etta": 1}})


@pytest.mark.parametrize("model", [diffusers.DDIMScheduler, diffusers.EulerDiscreteScheduler])
@pytest.mark.parametrize(
    ("name", "scheduler"),
    [
        ("ddim", diffusers.DDIMScheduler),
        ("euler", diffusers.EulerDiscreteScheduler),
        ("lcm", diffusers.LCMScheduler),
        ("tcd", diffusers.TCDScheduler),
        ("turbo", diffusers.EulerAncestralDiscreteScheduler),
        ("dpmpp-2m", diffusers.DPMSolverMultistepScheduler),
    ],
)
def test_from_pure_noise_every_step_is_that_of_diffusers(name: str, scheduler: Any, model: Any) -> None:
    """Models with a zero terminal SNR predict the velocity, from the last timestep on."""
    denoiser = Network(model(**{k: v for k, v in ZERO_SNR.items() if k != "clip_sample" or "DDIM" in model.__name__}))
    theirs = scheduler.from_config(ZERO_SNR)
    draws = {"generator": generators()} if name in ("lcm", "tcd", "turbo") else {}
    expected = steps_of_diffusers(theirs, denoiser, noise(), 7, **draws)
    timesteps, way = steps_of(name, denoiser, noise(), 7)
    assert timesteps == expected[0]
    assert timesteps[0] == 999
    for ours, other in zip(way, expected[1], strict=True):
        torch.testing.assert_close(ours, other, atol=1e-5, rtol=1e-5)


def test_pure_noise_is_begun_with_even_if_the_models_config_skips_it() -> None:
    denoiser = Network(diffusers.DDIMScheduler(**{**ZERO_SNR, "timestep_spacing": "leading"}))
    for name in ("unipc", "dpmpp-2m"):
        assert steps_of(name, denoiser, noise(), 5)[0][0] == 999


def test_a_scheduler_that_cannot_begin_with_pure_noise_is_refused() -> None:
    denoiser = Network(diffusers.DDIMScheduler(**ZERO_SNR))
    with pytest.raises(ConfigError, match=r"ends in pure noise .* which HeunDiscreteScheduler does not support"):
        steps_of({"name": "diffusers", "scheduler": "HeunDiscreteScheduler"}, denoiser, noise(), 5)


def test_a_pipeline_of_such_a_model_restores(sd_pipe: Pipeline) -> None:
    pipe = build_pipeline(tiny.sd_config())
    pipe.scheduler = diffusers.DDIMScheduler(**ZERO_SNR)
    for name in ("unipc", "euler", "ddim", "lcm"):
        pipe.sampler = BUILT_IN.create("sampler", name)
        assert pipe(PHOTO, seed=0, num_inference_steps=2).plan.start_timestep == 999
