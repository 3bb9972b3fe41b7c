"""The whole of inference, as a user of Python sees it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pyvips
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from diffusers.utils import convert_state_dict_to_diffusers
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from PIL import Image

from tests import tiny
from xpsr_sdk import (
    BrokenPlugin,
    CheckpointError,
    ConfigError,
    ImageError,
    Item,
    Pipeline,
    PipelineConfig,
    Prompts,
    Registry,
    UnknownComponent,
    build_pipeline,
)
from xpsr_sdk.builtin.residual import ResidualBackbone
from xpsr_sdk.builtin.samplers import DiffusersSampler
from xpsr_sdk.config import read_toml
from xpsr_sdk.data.images import resize, to_image, to_tensor
from xpsr_sdk.data.picture import picture_of
from xpsr_sdk.models.controlnet import XPSRControlNet

SAMPLERS = [c.spec.name for c in Registry([]).specs("sampler")]
PHOTO = tiny.photo(17, 20)


@pytest.fixture(scope="module")
def sd_pipe() -> Pipeline:
    return build_pipeline(
        model=str(tiny.SD_TINY / "base"), checkpoint=tiny.SD_TINY / "xpsr", device="cpu", dtype="float32"
    )


class Provider:
    """Says how many photos it has seen, or fails."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.asked: list[set[str]] = []

    def describe(self, items: Sequence[Item], levels: Collection[str]) -> list[Prompts]:
        self.asked.append(set(levels))
        if self.error:
            raise self.error
        return [Prompts("a house", "blurry", {"high": "test", "low": "test"}) for _ in items]

    def unload(self) -> None:
        pass


def with_provider(tiny_model: Path, provider: Any) -> Pipeline:
    return build_pipeline(model=str(tiny_model), device="cpu", prompt_provider=provider)


def same(a: Image.Image, b: Image.Image) -> bool:
    return np.array_equal(np.asarray(a), np.asarray(b))


def alike(a: Image.Image, b: Image.Image) -> bool:
    """But for rounding: diffusers' own loading leaves weights as they lie in the file."""
    return int(np.abs(np.asarray(a, int) - np.asarray(b, int)).max()) <= 1


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


@pytest.mark.parametrize("photo", [3, None, b"bytes", np.zeros((32, 32, 3)), [3]])
def test_something_else_is_no_photo(pipe: Pipeline, photo: Any) -> None:
    with pytest.raises(ConfigError, match="A photo is a path, a PIL image or an Item, not a"):
        pipe(photo)


def test_the_result_saves_itself(pipe: Pipeline, tmp_path: Path) -> None:
    result = pipe(PHOTO)
    result.save(tmp_path / "new" / "photo.png")
    assert same(Image.open(tmp_path / "new" / "photo.png"), result.image)
    with pytest.raises(ImageError, match=r"cannot write \.xyz"):
        result.save(tmp_path / "photo.xyz")


# What is kept of the photo


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_the_result_has_the_channels_of_the_photo(pipe: Pipeline, mode: str) -> None:
    photo = PHOTO.convert("L").convert(mode) if mode == "LA" else PHOTO.convert(mode)
    assert pipe(photo, scale=2, num_inference_steps=1).image.mode == mode


def test_16_bits_stay_16_bits_all_the_way(pipe: Pipeline) -> None:
    levels = (np.linspace(0.3, 0.3 + 40 / 255, 32 * 32 * 3).reshape(32, 32, 3) * 65535).astype(np.uint16)
    result = pipe(picture_of(levels), scale=2, fidelity=1)
    found = result.picture.window(0, 0, 64, 64)
    assert found.dtype == np.uint16
    assert len(np.unique(found[..., 0])) > 1000
    assert np.array_equal(np.asarray(result.image), np.round(found / 257).astype(np.uint8))


def test_the_colours_of_16_bits_survive_networks_in_half_precision(tiny_model: Path) -> None:
    half = build_pipeline(model=str(tiny_model), device="cpu", dtype="bfloat16", scale=2.0, num_inference_steps=1)
    between = 32896  # lies between two numbers of bfloat16
    result = half(picture_of(np.full((32, 32, 3), between, np.uint16)), color="wavelet")
    assert abs(result.picture.window(0, 0, 64, 64).mean() - between) < 16


@pytest.mark.parametrize("how", ["restore", "resize"])
def test_flat_parts_of_alpha_stay_exactly(pipe: Pipeline, how: str) -> None:
    photo = tiny.photo(40, 40).convert("RGBA")
    mask = Image.new("L", (40, 40), 0)
    mask.paste(255, (20, 0, 40, 40))
    photo.putalpha(mask)
    alpha = np.asarray(pipe(photo, scale=2, alpha=how, seed=0).image)[..., 3]
    assert (alpha[:, :28] == 0).all()
    assert (alpha[:, 52:] == 255).all()
    opaque = pipe(PHOTO.convert("RGBA"), scale=2, alpha=how, seed=0)
    assert np.asarray(opaque.image)[..., 3].min() == 255


def test_hidden_colours_change_nothing(pipe: Pipeline) -> None:
    results = []
    for hidden in ("black", "magenta"):
        photo = Image.new("RGBA", (32, 32), hidden)
        photo.putalpha(0)
        photo.paste(tiny.photo(16, 16).convert("RGBA"), (8, 8))
        results.append(pipe(photo, scale=2, seed=0, fidelity=1, low_prompt="").image)
    assert same(*results)


@pytest.mark.parametrize("treatment", ["keep", "convert"])
def test_a_profile_is_kept_or_converted(pipe: Pipeline, treatment: str) -> None:
    profile = bytes(pyvips.Operation.call("profile_load", "p3"))
    photo = PHOTO.copy()
    photo.info["icc_profile"] = profile
    result = pipe(photo, scale=2, profile=treatment)
    assert result.picture.profile == (profile if treatment == "keep" else None)


def test_metadata_is_kept_unless_it_is_not_wanted(pipe: Pipeline, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x010F] = "Camera"
    PHOTO.save(tmp_path / "photo.jpg", exif=exif)
    for treatment in ("keep", "strip"):
        pipe(tmp_path / "photo.jpg", scale=2, metadata=treatment).save(tmp_path / "result.jpg")
        with Image.open(tmp_path / "result.jpg") as image:
            assert image.getexif().get(0x010F) == ("Camera" if treatment == "keep" else None)


# Regions


def test_a_large_photo_is_restored_in_regions_without_a_seam(pipe: Pipeline) -> None:
    photo = tiny.photo(90, 70)
    done: list[tuple[int, int]] = []
    options: dict[str, Any] = {"scale": 4, "fidelity": 0.9, "num_inference_steps": 1, "seed": 2, "low_prompt": ""}
    parts = pipe(photo, region=256, region_overlap=64, progress=lambda i, n: done.append((i, n)), **options)
    assert parts.image.size == (360, 280)
    assert parts.plan.regions == len(done) == 4
    assert done[-1] == (4, 4)
    whole = pipe(photo, **options)
    assert whole.plan.regions == 1
    of_parts, of_whole = (np.abs(np.diff(np.asarray(r.image, float), axis=1)).mean((0, 2)) for r in (parts, whole))
    assert of_parts.max() <= 1.2 * of_whole.max()
    assert same(parts.image, pipe(photo, region=256, region_overlap=64, **options).image)


def test_alpha_and_16_bits_go_through_regions(pipe: Pipeline) -> None:
    levels = np.full((70, 90, 4), 30000, np.uint16)
    levels[:, :45, 3] = 0
    result = pipe(picture_of(levels), region=256, region_overlap=32, num_inference_steps=1, alpha="resize")
    found = result.picture.window(0, 0, 360, 280)
    assert (found.dtype, found.shape) == (np.uint16, (280, 360, 4))
    assert (found[:, 0, 3] == 0).all()
    assert (found[:, -1, 3] == 30000).all()


def test_latents_go_with_one_region(pipe: Pipeline) -> None:
    with pytest.raises(ConfigError, match="latents are for photos of one region, not of 4: give a larger region"):
        pipe(tiny.photo(90, 90), latents=torch.zeros(1, 48, 90, 90), region=256, region_overlap=0)


def test_a_provider_is_shown_parts_of_a_very_large_photo(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xpsr_sdk.data.photo.LARGEST_VIEW", 32)
    shown: dict[str, tuple[int, int]] = {}

    class Watcher(Provider):
        def describe(self, items: Sequence[Item], levels: Collection[str]) -> list[Prompts]:
            shown.update({level: item.image.size for item in items for level in levels})
            return super().describe(items, levels)

    pipe = with_provider(tiny_model, Watcher())
    prompts = pipe(tiny.photo(80, 40), scale=1, num_inference_steps=1).prompts
    assert shown == {"high": (32, 16), "low": (32, 32)}
    assert (prompts.high, prompts.low) == ("a house", "blurry")
    pipe(tiny.photo(32, 32), scale=1, num_inference_steps=1)
    assert shown == {"high": (32, 32), "low": (32, 32)}


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
    assert timings.keys() == {"prompts", "text", "denoise", "decode"}
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
    nano = build_pipeline(device="cpu")
    photo = PHOTO.convert("RGB").point(lambda level: 64 + level // 2)  # so that nothing is cut off at black or white
    results = {fidelity: nano(photo, fidelity=fidelity, seed=0) for fidelity in (0, 0.25, 0.75, 1)}
    sampled, mean = (np.asarray(results[end].image, dtype=float) for end in (0, 1))
    assert not np.array_equal(sampled, mean)
    for fidelity in (0.25, 0.75):
        blend = fidelity * mean + (1 - fidelity) * sampled
        assert np.abs(np.asarray(results[fidelity].image) - blend).max() <= 1
        assert results[fidelity].plan.start_timestep == results[0].plan.start_timestep


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
    pipe = build_pipeline(sd_config(), sampler=sampler)
    assert pipe(PHOTO, num_inference_steps=3, seed=0, guidance_scale=1).image.size == (68, 80)


def sd_config() -> PipelineConfig:
    return PipelineConfig(
        model=str(tiny.SD_TINY / "base"), checkpoint=tiny.SD_TINY / "xpsr", device="cpu", dtype="float32"
    )


# Prompts


def test_the_users_words_come_first(tiny_model: Path) -> None:
    provider = Provider()
    pipe = with_provider(tiny_model, provider)
    prompts = pipe(PHOTO, prompt="a cat").prompts
    assert (prompts.high, prompts.low) == ("a cat", "blurry")
    assert prompts.source == {"high": "user", "low": "test"}
    assert provider.asked == [{"low"}]
    prompts = pipe(PHOTO, prompt="", low_prompt="sharp").prompts
    assert (prompts.high, prompts.low) == ("", "sharp")
    assert prompts.source == {"high": "user", "low": "user"}
    assert len(provider.asked) == 1


def test_the_measured_provider_is_the_default(pipe: Pipeline) -> None:
    prompts = pipe(PHOTO).prompts
    assert prompts.high is None
    assert prompts.low
    assert prompts.source == {"low": "measured"}


@pytest.mark.parametrize("setting", ["prompt", "low_prompt", "positive"])
def test_words_change_the_image(pipe: Pipeline, setting: str) -> None:
    images = [pipe(PHOTO, seed=0, fidelity=0, **{setting: words}).image for words in ("blurry", "tiny resolution")]
    assert not same(*images)


@pytest.mark.parametrize("setting", ["negative", "low_negative"])
def test_negative_words_matter_with_guidance_only(pipe: Pipeline, setting: str) -> None:
    def image(words: str, guidance: float) -> Image.Image:
        return pipe(PHOTO, seed=0, fidelity=0, guidance_scale=guidance, **{setting: words}).image

    assert same(image("blurry", 1), image("noise", 1))
    assert not same(image("blurry", 4), image("noise", 4))


def test_a_provider_that_fails_costs_its_words_only(tiny_model: Path) -> None:
    pipe = with_provider(tiny_model, Provider(RuntimeError("out of memory")))
    with pytest.warns(UserWarning, match="No .*-level prompt for the image: RuntimeError: out of memory") as caught:
        result = pipe(PHOTO, prompt="a cat")
    assert len(caught) == 1
    assert result.prompts.errors == {"low": "RuntimeError: out of memory"}
    assert (result.prompts.high, result.prompts.low) == ("a cat", None)


@pytest.mark.parametrize("answer", [[], None, [("a house", "blurry")]])
def test_a_provider_that_answers_nonsense_costs_its_words_only(tiny_model: Path, answer: Any) -> None:
    provider = Provider()
    provider.describe = lambda items, levels: answer  # type: ignore[method-assign]
    pipe = with_provider(tiny_model, provider)
    with pytest.warns(UserWarning, match="No high-level and low-level prompt for the image"):
        assert pipe(PHOTO).image.size == (68, 80)


def test_a_provider_that_fails_at_both_levels_warns_once(tiny_model: Path) -> None:
    pipe = with_provider(tiny_model, Provider(RuntimeError("out of memory")))
    with pytest.warns(UserWarning, match="RuntimeError: out of memory") as caught:
        result = pipe(PHOTO)
    assert len(caught) == 1
    assert result.prompts.errors.keys() == {"high", "low"}


def test_a_long_prompt_is_cut_with_a_warning(pipe: Pipeline) -> None:
    with pytest.warns(UserWarning, match=r"A prompt of \d+ tokens was cut to 46"):
        pipe(PHOTO, prompt="blurry noise " * 60)


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
    with pytest.raises(ConfigError, match="The device 'cudaa' cannot be used: Expected one of cpu, cuda"):
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


# Models


def test_a_pipeline_is_saved_and_loaded_like_any_of_diffusers(pipe: Pipeline, tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path / "saved")
    expected = pipe(PHOTO, seed=0).image
    assert alike(Pipeline.from_pretrained(tmp_path / "saved")(PHOTO, seed=0).image, expected)
    assert same(build_pipeline(model=str(tmp_path / "saved"), device="cpu")(PHOTO, seed=0).image, expected)


def test_a_base_with_a_checkpoint_is_saved_as_a_whole_model(sd_pipe: Pipeline, tmp_path: Path) -> None:
    sd_pipe.save_pretrained(tmp_path / "saved")
    options: dict[str, Any] = {"seed": 0, "num_inference_steps": 2}
    expected = sd_pipe(PHOTO, **options).image
    assert alike(Pipeline.from_pretrained(tmp_path / "saved")(PHOTO, **options).image, expected)
    assert same(build_pipeline(model=str(tmp_path / "saved"), device="cpu")(PHOTO, **options).image, expected)


@pytest.mark.parametrize("backbone", [{"name": "residual"}, ResidualBackbone()])
def test_a_backbone_with_options_or_as_an_object_is_saved_too(
    tiny_model: Path, pipe: Pipeline, tmp_path: Path, backbone: Any
) -> None:
    chosen = build_pipeline(model=str(tiny_model), backbone=backbone, device="cpu")
    chosen.save_pretrained(tmp_path / "saved")
    saved = json.loads((tmp_path / "saved" / "model_index.json").read_text())["backbone"]
    assert saved == (backbone if isinstance(backbone, dict) else "residual")
    expected = pipe(PHOTO, seed=0).image
    assert alike(Pipeline.from_pretrained(tmp_path / "saved")(PHOTO, seed=0).image, expected)
    assert same(build_pipeline(model=str(tmp_path / "saved"), device="cpu")(PHOTO, seed=0).image, expected)


def test_offloading_brings_the_controlnet_in_before_it_embeds(tiny_model: Path, pipe: Pipeline) -> None:
    offloaded = build_pipeline(model=str(tiny_model), device="cpu")
    offloaded.enable_model_cpu_offload(device="cpu")  # to another device, where there is one
    hook = offloaded.controlnet._hf_hook
    called_with: list[int] = []
    before = hook.pre_forward

    def record(module: Any, *args: Any, **kwargs: Any) -> Any:
        called_with.append(len(args))
        return before(module, *args, **kwargs)

    hook.pre_forward = record
    assert same(offloaded(PHOTO, seed=0).image, pipe(PHOTO, seed=0).image)
    assert called_with[0] == 0  # for embed_condition, before any forward pass
    assert same(offloaded(PHOTO, seed=0).image, pipe(PHOTO, seed=0).image)


@pytest.mark.parametrize("offload", ["model", "group"])
def test_offloaded_weights_give_the_same_image(sd_pipe: Pipeline, offload: str) -> None:
    offloaded = build_pipeline(sd_config(), engine={"offload": offload})
    options: dict[str, Any] = {"seed": 0, "num_inference_steps": 2}
    expected = sd_pipe(PHOTO, **options).image
    for _ in range(2):
        assert same(offloaded(PHOTO, **options).image, expected)


def test_a_lora_file_changes_the_image(sd_pipe: Pipeline, tmp_path: Path) -> None:
    pipe = build_pipeline(sd_config())
    options: dict[str, Any] = {"seed": 0, "num_inference_steps": 2, "guidance_scale": 1, "prompt": "a cat"}
    before = pipe(PHOTO, **options).image
    lora = LoraConfig(r=2, lora_alpha=2, init_lora_weights=False, target_modules=r".*\.attentions\..*attn2\.to_[qv]")
    pipe.unet.add_adapter(lora)
    layers = get_peft_model_state_dict(pipe.unet)
    assert layers
    Pipeline.save_lora_weights(tmp_path, unet_lora_layers=layers)
    with_lora = pipe(PHOTO, **options).image

    fresh = build_pipeline(sd_config())
    fresh.load_lora_weights(tmp_path)
    assert same(fresh(PHOTO, **options).image, with_lora)
    assert not same(before, with_lora)
    fresh.unload_lora_weights()
    assert same(fresh(PHOTO, **options).image, before)


def test_a_lora_file_of_the_base_model_loads(tmp_path: Path) -> None:
    base = UNet2DConditionModel.from_pretrained(tiny.SD_TINY / "base" / "unet")
    base.add_adapter(LoraConfig(r=2, lora_alpha=2, init_lora_weights=False, target_modules=["to_q", "to_v"]))
    layers = convert_state_dict_to_diffusers(get_peft_model_state_dict(base))
    StableDiffusionPipeline.save_lora_weights(tmp_path, unet_lora_layers=layers)
    pipe = build_pipeline(sd_config())
    options: dict[str, Any] = {"seed": 0, "num_inference_steps": 2, "guidance_scale": 1, "prompt": "a cat"}
    before = pipe(PHOTO, **options).image
    pipe.load_lora_weights(tmp_path, adapter_name="style")
    assert pipe.get_active_adapters() == ["style"]
    assert not same(pipe(PHOTO, **options).image, before)
    pipe.set_adapters("style", 0.0)
    assert alike(pipe(PHOTO, **options).image, before)


@pytest.mark.parametrize("how", ["enable_model_cpu_offload", "enable_group_offload"])
def test_offloading_changes_no_bit(how: str) -> None:
    options: dict[str, Any] = {"seed": 0, "num_inference_steps": 2}
    expected = build_pipeline(sd_config())(PHOTO, **options).image
    pipe = build_pipeline(sd_config())
    cpu = torch.device("cpu")  # there may be no other
    if how == "enable_group_offload":
        pipe.enable_group_offload(onload_device=cpu, offload_type="leaf_level")
    else:
        pipe.enable_model_cpu_offload(device=cpu)
    assert same(pipe(PHOTO, **options).image, expected)


def test_a_callback_of_diffusers_kind_sees_and_changes_the_latents(pipe: Pipeline) -> None:
    seen: list[tuple[int, int]] = []

    def zero_at_the_end(asked: Any, step: int, timestep: int, kwargs: dict[str, Any]) -> dict[str, Any]:
        assert asked is pipe
        seen.append((step, timestep))
        return {"latents": torch.zeros_like(kwargs["latents"])} if step == 1 else {}

    options: dict[str, Any] = {"seed": 0, "num_inference_steps": 2, "fidelity": 0}
    result = pipe(PHOTO, callback_on_step_end=zero_at_the_end, **options)
    assert [step for step, _ in seen] == [0, 1]
    bicubic = resize(to_tensor(PHOTO), 80, 68)
    assert np.abs(np.asarray(result.image, int) - np.asarray(to_image(bicubic), int)).max() <= 1
    assert same(pipe(PHOTO, callback_on_step_end=lambda *_: None, **options).image, pipe(PHOTO, **options).image)
    with pytest.raises(ConfigError, match="callback or callback_on_step_end, not both"):
        pipe(PHOTO, callback=lambda *_: None, callback_on_step_end=lambda *_: None)


def test_a_model_with_the_fusion_of_a_plugin_is_saved_and_loaded(tiny_model: Path, tmp_path: Path) -> None:
    base = UNet2DConditionModel(**tiny.UNET)
    model = tmp_path / "gated"
    shutil.copytree(tiny_model, model)
    torch.manual_seed(0)
    controlnet = XPSRControlNet.from_unet(base, tiny.CONDITIONING_WIDTHS, "gated")
    tiny.shake(controlnet)
    shutil.rmtree(model / "controlnet")
    controlnet.save_pretrained(model / "controlnet")
    pipe = build_pipeline(model=str(model), device="cpu")
    expected = pipe(PHOTO, seed=0).image
    pipe.save_pretrained(tmp_path / "saved")
    assert alike(Pipeline.from_pretrained(tmp_path / "saved")(PHOTO, seed=0).image, expected)
    assert same(build_pipeline(model=str(tmp_path / "saved"), device="cpu")(PHOTO, seed=0).image, expected)


def test_a_base_alone_asks_for_a_checkpoint() -> None:
    with pytest.raises(
        CheckpointError, match=r"it has no controlnet/. Name an XPSR checkpoint for it \(--checkpoint\)"
    ):
        build_pipeline(model=str(tiny.SD_TINY / "base"))


def test_a_checkpoint_for_another_base_is_refused(tiny_model: Path) -> None:
    with pytest.raises(CheckpointError, match="does not fit"):
        build_pipeline(model=str(tiny_model), checkpoint=tiny.SD_TINY / "xpsr")


@pytest.mark.parametrize("part", ["vae", "text_encoder", "tokenizer", "scheduler", "unet", "controlnet"])
def test_a_missing_part_is_a_clear_error(tiny_model: Path, tmp_path: Path, part: str) -> None:
    shutil.copytree(tiny_model, tmp_path / "model")
    shutil.rmtree(tmp_path / "model" / part)
    with pytest.raises(CheckpointError, match="model"):
        build_pipeline(model=str(tmp_path / "model"))


@pytest.mark.parametrize("content", ["", "{}", '{"defaults": {"fidelty": 1}}', '{"backbone": "residul"}'])
def test_a_wrong_index_is_a_clear_error(tiny_model: Path, tmp_path: Path, content: str) -> None:
    shutil.copytree(tiny_model, tmp_path / "model")
    (tmp_path / "model" / "model_index.json").write_text(content)
    with pytest.raises((CheckpointError, ConfigError, UnknownComponent)):
        build_pipeline(model=str(tmp_path / "model"))


def test_a_broken_backbone_is_named(tiny_model: Path) -> None:
    class Broken:
        __name__ = "broken"

    with pytest.raises(BrokenPlugin, match="backbone 'mine'"):
        build_pipeline(model=str(tiny_model), backbone="mine", registry=Registry([Broken()]))


def test_a_backbone_can_be_handed_over_as_an_object(tiny_model: Path, pipe: Pipeline) -> None:
    handed_over = build_pipeline(model=str(tiny_model), backbone=ResidualBackbone(), device="cpu")
    assert handed_over(PHOTO, seed=3).image.tobytes() == pipe(PHOTO, seed=3).image.tobytes()
