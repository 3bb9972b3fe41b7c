"""A program as users write it. It is never run: ``test_typing.py`` lets type checkers read it.

Each wrong use is marked with the complaint that it must raise: a mark that silences nothing is an error, too.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import assert_type

import torch
from PIL import Image

from xpsr_sdk import (
    Backbone,
    ComponentSpec,
    Denoiser,
    FusionAttention,
    Item,
    ModelDefaults,
    Options,
    Pipeline,
    PipelineConfig,
    Plan,
    PromptLevel,
    PromptProvider,
    Prompts,
    QueueError,
    RestoreConfig,
    Result,
    Sampler,
    StepCallback,
    XPSRError,
    build_pipeline,
    evaluate_folders,
    find_model,
    hookimpl,
    read_toml,
)
from xpsr_sdk.toolkit import Dice, DiffusersSampler, StableDiffusion, kernels, one_line, to_tensor


class FileNames:
    """A prompt provider."""

    class Config(Options):
        """No options."""

    def describe(self, items: Sequence[Item], levels: Collection[PromptLevel]) -> list[Prompts]:
        return [Prompts(high=item.path.stem if item.path else None, source={"high": "file name"}) for item in items]

    def unload(self) -> None: ...


class Half:
    """A sampler."""

    def sample(
        self,
        denoiser: Denoiser,
        latents: torch.Tensor,
        *,
        num_inference_steps: int,
        generators: Sequence[torch.Generator],
        callback: StepCallback | None = None,
    ) -> torch.Tensor:
        return denoiser.predict(latents, 0) / 2


class Forgetful:
    """No prompt provider: it does not unload."""

    def describe(self, items: Sequence[Item], levels: Collection[PromptLevel]) -> list[Prompts]:
        return []


@hookimpl
def xpsr_samplers() -> list[ComponentSpec]:
    """A hook."""
    return [ComponentSpec("half", "my_plugin:Half", "A sampler.", {"order": 2})]


def use_a_pipeline(pipe: Pipeline, photo: Image.Image) -> None:
    """One photo gives a result, several give a list."""
    assert_type(pipe("photo.jpg"), Result)
    assert_type(pipe(Path("photo.jpg"), seed=1, fidelity=0.5), Result)
    assert_type(pipe(photo, color="wavelet", tile=None), Result)
    assert_type(pipe([photo, photo]), list[Result])
    assert_type(pipe(["a.jpg", "b.jpg"], num_inference_steps=10), list[Result])
    result = pipe(photo, callback=lambda step, timestep, latents: None, guidance_interval=(0.2, 1))
    assert_type(result.plan, Plan)
    assert_type(result.plan.settings.guidance_scale, float)
    assert_type(RestoreConfig(scale=2).guidance_scale, float | None)
    result.image.save("restored.png")

    pipe(photo, sead=1)  # type: ignore[call-overload]
    pipe(photo, seed="1")  # type: ignore[call-overload]
    pipe(photo, color="vivid")  # type: ignore[call-overload]
    pipe(photo, model="nano")  # type: ignore[call-overload]
    pipe(1)  # type: ignore[call-overload]
    print(pipe([photo]).image)  # type: ignore[attr-defined]
    result.picture = None  # type: ignore[misc, assignment]


def build() -> Pipeline:
    """Parts by name, with options, or as objects; settings as keywords."""
    config = read_toml(PipelineConfig, Path("pipeline.toml"))
    assert_type(config, PipelineConfig)
    build_pipeline(config, sampler={"name": "dpmpp-2m", "options": {"solver_order": 3}}, scale=2, dtype="bfloat16")
    build_pipeline(sampler=Half(), prompt_provider=FileNames(), backbone=StableDiffusion(), checkpoint="run/last")
    build_pipeline(sampler=DiffusersSampler(), execution={"compile": "default"}, speed="fast", seed=1)

    build_pipeline(dtype="float8")  # type: ignore[arg-type]
    build_pipeline(modle="nano")  # type: ignore[call-arg]
    build_pipeline(prompt_provider=Forgetful())  # type: ignore[arg-type]
    build_pipeline("nano")  # type: ignore[arg-type]
    return build_pipeline(model=str(find_model("nano")))


def use_contracts(provider: PromptProvider, sampler: Sampler, fusion: FusionAttention, backbone: Backbone) -> None:
    """What parts give has a type."""
    assert_type(provider.describe([], ["high"]), list[Prompts])
    assert_type(backbone.stride, int)
    provider.describe([], ["middle"])  # type: ignore[list-item]
    sampler.sample()  # type: ignore[call-arg]
    fusion.no_such_method()  # type: ignore[attr-defined]


def use_the_toolkit(photo: Image.Image, generator: torch.Generator) -> torch.Tensor:
    """So have the tools."""
    assert_type(ModelDefaults().guidance_scale, float)
    assert_type(evaluate_folders("restored", "originals", metrics=["psnr"]).means, dict[str, float])
    try:
        sigma = Dice(generator).uniform((0.5, 2))
    except (QueueError, XPSRError) as error:
        print(one_line(error))
    Dice(generator).uniform(0.5, 2)  # type: ignore[call-arg, arg-type]
    return kernels.blur(to_tensor(photo), kernels.gaussian(21, (sigma, sigma)))
