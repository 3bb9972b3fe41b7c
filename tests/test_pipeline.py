"""The whole of inference, as a user of Python sees it."""

from __future__ import annotations

import json
import shutil
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.support import tiny
from tests.support.tiny import PHOTO, alike, same
from xpsr_sdk import (
    ConfigError,
    ImageError,
    Item,
    Pipeline,
    PipelineConfig,
    Registry,
    UnknownComponent,
    build_pipeline,
)
from xpsr_sdk.builtin.samplers import DiffusersSampler
from xpsr_sdk.config import read_toml
from xpsr_sdk.data.images import resize, to_image, to_tensor

SAMPLERS = [c.spec.name for c in Registry([]).components("sampler")]


# Sizes


@settings(max_examples=15)
@given(
    width=st.integers(16, 40),
    height=st.integers(16, 40),
    scale=st.one_of(st.sampled_from([1, 2, 4]), st.floats(1, 3)),
    tile=st.sampled_from([64, 512]),
)
def test_the_result_is_exactly_scale_times_as_large(
    pipe: Pipeline, width: int, height: int, scale: float, tile: int
) -> None:
    result = pipe(tiny.photo(width, height), scale=scale, num_inference_steps=1, tile=tile)
    assert result.image.size == (round(width * scale), round(height * scale))
    assert result.image.mode == "RGB"


@settings(max_examples=5)
@given(width=st.integers(16, 40), height=st.integers(16, 40), scale=st.floats(1, 3))
def test_stable_diffusion_restores_any_size_too(sd_pipe: Pipeline, width: int, height: int, scale: float) -> None:
    result = sd_pipe(tiny.photo(width, height), scale=scale, num_inference_steps=1, tile=64)
    assert result.image.size == (round(width * scale), round(height * scale))


@pytest.mark.parametrize("overlap", [0, 8])
def test_the_smallest_tile(pipe: Pipeline, sd_pipe: Pipeline, overlap: int) -> None:
    for each in (pipe, sd_pipe):
        result = each(PHOTO, scale=1.5, num_inference_steps=1, tile=16, tile_overlap=overlap)
        assert result.image.size == (26, 30)
        assert result.plan.tiles >= 4


def test_the_largest_scale(pipe: Pipeline) -> None:
    assert pipe(tiny.photo(16, 17), scale=8, num_inference_steps=1).image.size == (128, 136)


@pytest.mark.parametrize("size", [(1, 1), (15, 100), (100, 15)])
def test_a_tiny_photo_is_refused(pipe: Pipeline, size: tuple[int, int]) -> None:
    with pytest.raises(ImageError, match=f"is {size[0]}x{size[1]}: photos need at least 16 pixels"):
        pipe(tiny.photo(*size))


# What comes in


def test_paths_images_and_items_are_photos(pipe: Pipeline, tmp_path: Path) -> None:
    file = tmp_path / "photo.png"
    PHOTO.save(file)
    with_alpha = PHOTO.convert("RGBA")
    results = [pipe(photo, seed=1) for photo in (PHOTO, file, str(file), Item(PHOTO), with_alpha, Item(with_alpha))]
    assert all(same(result.image.convert("RGB"), results[0].image) for result in results)
    assert [result.path for result in results] == [None, file, file, None, None, None]


def test_a_list_comes_out_as_a_list(pipe: Pipeline) -> None:
    photos = [PHOTO, tiny.photo(16, 16, seed=1)]
    together = pipe(photos, seed=3)
    assert [same(a.image, pipe(b, seed=3).image) for a, b in zip(together, photos, strict=True)] == [True, True]
    assert pipe([]) == []


@pytest.mark.parametrize("photo", [3, None, [3], StringIO("words")])
def test_something_else_is_no_photo(pipe: Pipeline, photo: Any) -> None:
    with pytest.raises(
        ConfigError,
        match=r"A photo is a path, a PIL image, an item, .* or a file object that is open in binary mode, not a",
    ):
        pipe(photo)


def test_the_result_saves_itself(pipe: Pipeline, tmp_path: Path) -> None:
    result = pipe(PHOTO)
    result.save(tmp_path / "new" / "photo.png")
    assert same(Image.open(tmp_path / "new" / "photo.png"), result.image)
    with pytest.raises(ImageError, match=r"cannot write \.xyz"):
        result.save(tmp_path / "photo.xyz")


# Seeds, the dial and the plan


def test_the_same_seed_gives_the_same_bits(pipe: Pipeline) -> None:
    first = pipe(PHOTO, fidelity=0)
    assert same(first.image, pipe(PHOTO, fidelity=0, seed=first.seed).image)
    assert not same(first.image, pipe(PHOTO, fidelity=0, seed=first.seed + 1).image)


def test_the_plan_can_be_given_again(pipe: Pipeline) -> None:
    first = pipe(PHOTO, fidelity=0.25, num_inference_steps=2, tile=64, tile_overlap=16, tile_batch=2)
    again = pipe(PHOTO, **first.plan.settings.model_dump(exclude={"seed"}), seed=first.seed)
    assert same(first.image, again.image)
    assert first.plan.tiles == 4
    assert first.plan.start_timestep == 999


def test_timings_add_up(pipe: Pipeline) -> None:
    timings = dict(pipe(PHOTO).timings)
    total = timings.pop("total")
    assert timings.keys() == {"prompts", "text", "upscale", "denoise", "decode"}
    assert 0 < sum(timings.values()) <= total


def test_full_fidelity_needs_no_steps(pipe: Pipeline) -> None:
    steps: list[int] = []
    result = pipe(PHOTO, fidelity=1, callback=lambda i, t, x: steps.append(i))
    assert result.plan.start_timestep == -1
    assert not steps


@pytest.mark.parametrize("fidelity", [0, 0.5, 0.9])
def test_more_fidelity_starts_with_less_noise(sd_pipe: Pipeline, fidelity: float) -> None:
    seen: list[int] = []
    result = sd_pipe(PHOTO, fidelity=fidelity, num_inference_steps=3, callback=lambda i, t, x: seen.append(t))
    assert result.plan.start_timestep == round((1 - fidelity) * 1000) - 1
    assert len(seen) == 3
    assert seen[0] == result.plan.start_timestep
    assert seen == sorted(seen, reverse=True)


def test_fidelity_blends_what_is_sampled_from_the_mean() -> None:
    nano = build_pipeline(device="cpu", dtype="float32")
    photo = PHOTO.convert("RGB").point(lambda level: 64 + level // 2)  # so that nothing is cut off at black or white
    results = {fidelity: nano(photo, fidelity=fidelity, seed=0) for fidelity in (0, 0.25, 0.75, 1)}
    sampled, mean = (np.asarray(results[end].image, dtype=float) for end in (0, 1))
    assert not np.array_equal(sampled, mean)
    for fidelity in (0.25, 0.75):
        blend = fidelity * mean + (1 - fidelity) * sampled
        assert np.abs(np.asarray(results[fidelity].image) - blend).max() <= 1
        assert results[fidelity].plan.start_timestep == results[0].plan.start_timestep


def test_a_model_may_keep_a_share_of_the_photo_itself_at_fidelity_1() -> None:
    nano = build_pipeline(device="cpu", dtype="float32")
    photo = PHOTO.convert("RGB").point(lambda level: 64 + level // 2)
    images = []
    for share in (0.0, 0.5, 1.0):
        nano.defaults = nano.defaults.model_copy(update={"photo_share": share})
        images.append(np.asarray(nano(photo, fidelity=1, seed=0).image, dtype=float))
    mean, half, itself = images
    bicubic = np.asarray(to_image(resize(to_tensor(photo), 4 * photo.height, 4 * photo.width)), dtype=float)
    assert np.abs(itself - bicubic).max() <= 1
    assert np.abs(half - (mean + itself) / 2).max() <= 1
    assert np.abs(mean - itself).max() > 4


def test_zero_latents_of_the_residual_backbone_are_the_bicubic_image(pipe: Pipeline) -> None:
    lr = torch.rand(1, 3, 16, 24)
    image = pipe.backbone.decode(torch.zeros(1, 48, 4, 6), lr)
    torch.testing.assert_close(image, 2 * lr - 1)
    hr = torch.rand(1, 3, 16, 24) * 2 - 1
    torch.testing.assert_close(pipe.backbone.decode(pipe.backbone.encode(hr, lr), lr), hr, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("fidelity", [0, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("steps", [1, 5])
def test_every_sampler_runs_from_every_start(sd_pipe: Pipeline, sampler: str, fidelity: float, steps: int) -> None:
    seen: list[torch.Tensor] = []
    chosen = Registry([]).create("sampler", sampler)
    standard, sd_pipe.sampler = sd_pipe.sampler, chosen
    try:
        sd_pipe(
            PHOTO,
            scale=1,
            guidance_scale=1,
            seed=0,
            fidelity=fidelity,
            num_inference_steps=steps,
            callback=lambda i, t, x: seen.append(x),
        )
    finally:
        sd_pipe.sampler = standard
    assert seen
    assert all(latents.isfinite().all() for latents in seen)
    assert seen[-1].abs().max() < 50


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_runs_with_stable_diffusion(sd_pipe: Pipeline, sampler: str) -> None:
    pipe = build_pipeline(tiny.sd_config(), sampler=sampler)
    assert pipe(PHOTO, num_inference_steps=3, seed=0, guidance_scale=1).image.size == (68, 80)


# Settings


@pytest.mark.parametrize("where", ["call", "build"])
def test_an_unknown_setting_is_named_with_the_right_one(pipe: Pipeline, tiny_model: Path, where: str) -> None:
    with pytest.raises(ConfigError, match=r"fidelty: there is no such option. Did you mean 'fidelity'\?"):
        pipe(PHOTO, fidelty=1) if where == "call" else build_pipeline(model=str(tiny_model), fidelty=1)


@pytest.mark.parametrize(
    "wrong",
    [
        {"scale": 0.5},
        {"scale": 9},
        {"fidelity": 1.1},
        {"num_inference_steps": 0},
        {"seed": -1},
        {"color": "sepia"},
        {"tile": 15},
        {"tile": 64, "tile_overlap": 64},
        {"region": 100},
        {"region": 256, "region_overlap": 128},
        {"alpha": "guess"},
        {"max_megapixels": 0},
        {"tile_overlap": 512},
    ],
)
def test_a_setting_out_of_range_is_named(pipe: Pipeline, wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=list(wrong)[-1]):
        pipe(PHOTO, **wrong)


def test_settings_of_the_pipeline_hold_for_each_call(tiny_model: Path, pipe: Pipeline) -> None:
    chosen = build_pipeline(model=str(tiny_model), device="cpu", scale=2, seed=5, fidelity=0)
    assert same(chosen(PHOTO).image, pipe(PHOTO, scale=2, seed=5, fidelity=0).image)
    assert chosen(PHOTO, scale=1).image.size == PHOTO.size


def test_none_is_always_the_default(tiny_model: Path, pipe: Pipeline) -> None:
    nothing: dict[str, Any] = dict.fromkeys(PipelineConfig.model_fields.keys() - {"model", "device"})
    built = build_pipeline(model=str(tiny_model), device="cpu", **nothing)
    assert built.settings == pipe.settings
    assert same(built(PHOTO, seed=0, scale=None).image, pipe(PHOTO, seed=0).image)


def test_the_models_own_defaults_stand_in_its_index(pipe: Pipeline, sd_pipe: Pipeline) -> None:
    of_nano, of_xpsr = pipe.resolve({}), sd_pipe.resolve({})
    assert (of_nano.num_inference_steps, of_nano.guidance_scale, of_nano.positive) == (4, 1, "")
    assert (of_xpsr.num_inference_steps, of_xpsr.guidance_scale, of_xpsr.color) == (20, 5, "adain")
    assert of_xpsr.positive == "clean, high-resolution, 8k, high quality, clear text."


@pytest.mark.parametrize(
    "wrong", [{"fidelity": 2}, {"tile": 0}, {"num_inference_steps": 0}, {"guidance_scale": -1}, {"noisiest_start": 1.5}]
)
def test_a_default_of_a_model_out_of_range_is_named(tiny_model: Path, tmp_path: Path, wrong: dict[str, Any]) -> None:
    with_index(tiny_model, tmp_path / "model", defaults=tiny.DEFAULTS | wrong)
    with pytest.raises(ConfigError, match=rf"defaults has wrong options:\n  {next(iter(wrong))}: "):
        build_pipeline(model=str(tmp_path / "model"))


def with_index(model: Path, copy: Path, **changes: Any) -> None:
    """Copy a model's folder, with another index."""
    shutil.copytree(model, copy)
    index = json.loads((model / "model_index.json").read_text())
    tiny.write_json(copy / "model_index.json", index | changes)


@pytest.mark.parametrize(
    "choice", ["euler", {"name": "euler"}, {"name": "dpmpp-2m", "scheduler": "EulerDiscreteScheduler"}]
)
def test_a_sampler_is_chosen_by_name_or_with_options(tiny_model: Path, choice: Any) -> None:
    pipe = build_pipeline(model=str(tiny_model), device="cpu", sampler=choice)
    assert isinstance(pipe.sampler, DiffusersSampler)
    assert pipe.sampler.config.scheduler == "EulerDiscreteScheduler"


def test_a_sampler_can_be_handed_over(tiny_model: Path) -> None:
    class Nothing:
        def sample(self, denoiser: Any, latents: torch.Tensor, **_: Any) -> torch.Tensor:
            return torch.zeros_like(latents)

    pipe = build_pipeline(model=str(tiny_model), device="cpu", sampler=Nothing(), scale=2, fidelity=0)
    bicubic = to_image(resize(to_tensor(PHOTO), 40, 34))
    assert alike(pipe(PHOTO).image, bicubic)


def test_a_device_that_is_not_there_is_named(tiny_model: Path) -> None:
    with pytest.raises(ConfigError, match="The device 'meta' computes nothing"):
        build_pipeline(model=str(tiny_model), device="meta")
    with pytest.raises(ConfigError, match=r"There is no device 'cudaa'\. Did you mean 'cuda'\?"):
        build_pipeline(model=str(tiny_model), device="cudaa")


def test_a_wrong_component_is_named(tiny_model: Path) -> None:
    with pytest.raises(UnknownComponent, match=r"the sampler 'eular'. Did you mean 'euler'\?"):
        build_pipeline(model=str(tiny_model), sampler="eular")
    with pytest.raises(ConfigError, match="has wrong options"):
        build_pipeline(model=str(tiny_model), sampler={"name": "ddim", "steps": 3})
    with pytest.raises(ConfigError, match="lacks sample"):
        build_pipeline(model=str(tiny_model), sampler=object())


def test_the_same_config_as_toml_builds_the_same_pipeline(tiny_model: Path, tmp_path: Path) -> None:
    file = tmp_path / "restore.toml"
    file.write_text(
        f'model = "{tiny_model}"\ndevice = "cpu"\nseed = 3\nfidelity = 0.0\nprompt_provider = "fixed"\n'
        '[sampler]\nname = "dpmpp-2m"\nscheduler = "EulerDiscreteScheduler"\n'
    )
    from_file = build_pipeline(read_toml(PipelineConfig, file))
    sampler = {"name": "dpmpp-2m", "scheduler": "EulerDiscreteScheduler"}
    built = build_pipeline(
        model=str(tiny_model), device="cpu", seed=3, fidelity=0, prompt_provider="fixed", sampler=sampler
    )
    assert from_file.settings == built.settings
    assert same(from_file(PHOTO).image, built(PHOTO).image)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision(tiny_model: Path, pipe: Pipeline, dtype: str) -> None:
    half = build_pipeline(model=str(tiny_model), device="cpu", dtype=dtype)
    result = half(PHOTO, seed=0)
    assert result.plan.dtype == dtype
    difference = np.asarray(result.image, float) - np.asarray(pipe(PHOTO, seed=0).image, float)
    assert np.abs(difference).mean() < 3
