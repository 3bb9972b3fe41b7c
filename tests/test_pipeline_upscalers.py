"""Photos that come to their size by an upscaler, with a model after it and without one."""

from __future__ import annotations

from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from tests.support import tiny
from xpsr_sdk import ConfigError, Registry, RestorationQueue, UnknownComponent, build_pipeline

PHOTO = tiny.photo(40, 28)


class Doubling:
    """Twice as large, by the nearest pixel; notes what it is given."""

    scale, halo = 2, 3

    def __init__(self) -> None:
        self.seen: list[tuple[int, ...]] = []
        self.fails_above = 10**9

    def upscale(self, image: Tensor) -> Tensor:
        self.seen.append(tuple(image.shape))
        if image.shape[-1] * image.shape[-2] > self.fails_above:
            raise MemoryError("out of memory")
        return interpolate(image, scale_factor=2)

    def unload(self) -> None: ...


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)


def test_without_a_model_the_upscaler_is_the_result() -> None:
    result = build_pipeline(model="none", upscaler=Doubling(), device="cpu")(PHOTO, scale=2)
    assert np.array_equal(pixels(result.image), pixels(PHOTO).repeat(2, 0).repeat(2, 1))
    assert result.prompts.low is None
    assert result.plan.tiles == 0


@pytest.mark.parametrize("scale", [1.0, 2.7, 4.0, 8.0])
def test_any_target_size_is_reached_from_the_upscalers_own(scale: float) -> None:
    image = build_pipeline(model="none", upscaler=Doubling(), device="cpu")(PHOTO, scale=scale).image
    assert image.size == (round(40 * scale), round(28 * scale))


@pytest.mark.parametrize(
    ("setting", "name"),
    [({"checkpoint": "runs/one"}, "checkpoint"), ({"execution": {"offload": "model"}}, "execution.offload")],
)
def test_without_a_model_what_is_for_one_is_refused(setting: dict[str, Any], name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} is for a diffusion model, and model is 'none'"):
        build_pipeline(model="none", device="cpu", **setting)


def test_fidelity_blends_the_upscaler_with_the_photo_itself() -> None:
    pipe = build_pipeline(model="none", upscaler=Doubling(), device="cpu")
    zero, half, one = (pixels(pipe(PHOTO, scale=4, fidelity=f).image) for f in (0, 0.5, 1))
    assert np.abs(half - (zero + one) / 2).max() <= 1
    bicubic = PHOTO.resize((160, 112), Image.Resampling.BICUBIC)
    assert np.abs(one - pixels(bicubic)).max() <= 1


def test_tiles_with_the_halo_around_them_give_the_same_photo() -> None:
    upscaler = Doubling()
    pipe = build_pipeline(model="none", upscaler=upscaler, device="cpu")
    photo = tiny.photo(100, 70)
    whole, tiled = (pipe(photo, scale=2, upscaler_tile=side).image for side in (384, 32))
    assert tiny.same(whole, tiled)
    assert max(max(shape[2:]) for shape in upscaler.seen[1:]) <= 32 + 2 * upscaler.halo


def test_regions_give_the_same_photo() -> None:
    pipe = build_pipeline(model="none", upscaler=Doubling(), device="cpu")
    photo = tiny.photo(200, 150)
    whole, in_regions = (pipe(photo, scale=4, region=side, region_overlap=64).image for side in (2048, 384))
    assert np.abs(pixels(whole) - pixels(in_regions)).max() <= 1


def test_an_upscaler_that_runs_out_of_memory_is_tried_with_smaller_tiles() -> None:
    upscaler = Doubling()
    upscaler.fails_above = 60 * 60
    pipe = build_pipeline(model="none", upscaler=upscaler, device="cpu")
    photo = tiny.photo(100, 90)
    with pytest.warns(UserWarning, match="upscaler_tile"):
        result = pipe(photo, scale=2)
    assert np.array_equal(pixels(result.image), pixels(photo).repeat(2, 0).repeat(2, 1))
    assert result.plan.settings.upscaler_tile < 100


def test_a_model_restores_what_the_upscaler_gives(tmp_path: Path) -> None:
    tiny.write_whole_model(tmp_path)
    bicubic, doubled = (
        build_pipeline(model=str(tmp_path), upscaler=upscaler, device="cpu")(PHOTO, seed=1, fidelity=1).image
        for upscaler in ("bicubic", Doubling())
    )
    assert bicubic.size == doubled.size == (160, 112)
    assert not tiny.same(bicubic, doubled)


def test_a_model_that_has_learned_nothing_gives_the_upscalers_image(tmp_path: Path) -> None:
    tiny.write_whole_model(tmp_path)
    pipe = build_pipeline(model=str(tmp_path), upscaler=Doubling(), device="cpu")
    for parameter in pipe.unet.conv_out.parameters():
        torch.nn.init.zeros_(parameter)
    alone = build_pipeline(model="none", upscaler=Doubling(), device="cpu")(PHOTO).image
    for fidelity in (0, 0.5, 1):
        assert tiny.alike(pipe(PHOTO, seed=1, fidelity=fidelity).image, alone)


def test_transparency_is_enlarged_by_the_upscaler_too() -> None:
    photo = PHOTO.copy()
    photo.putalpha(Image.fromarray(np.tile(np.arange(40, dtype=np.uint8) * 6, (28, 1))))
    image = build_pipeline(model="none", upscaler=Doubling(), device="cpu")(photo, scale=2, fidelity=0).image
    assert image.mode == "RGBA"
    alpha = np.asarray(photo.getchannel("A"), int).repeat(2, 0).repeat(2, 1)
    assert np.abs(np.asarray(image.getchannel("A"), int) - alpha).max() <= 1


def test_sixteen_bits_survive_bicubic_enlargement() -> None:
    levels = np.linspace(0, 65535, 32 * 32).astype(np.uint16).reshape(32, 32)
    picture = build_pipeline(model="none", upscaler="bicubic", device="cpu", dtype="bfloat16")(
        Image.fromarray(levels), scale=1
    ).picture
    assert np.array_equal(picture.window(0, 0, 32, 32)[..., 0], levels)


def test_what_cannot_be_chosen_is_told() -> None:
    with pytest.raises(UnknownComponent, match="Did you mean 'bicubic'"):
        build_pipeline(model="none", upscaler="bicubik", registry=Registry([]))
    with pytest.raises(ConfigError, match="no model"):
        build_pipeline(model="none", upscaler="bicubic", device="cpu").explain(PHOTO)
    assert torch.is_grad_enabled()


def test_a_saved_pipeline_keeps_the_upscaler_that_was_named(tmp_path: Path) -> None:
    tiny.write_whole_model(tmp_path / "model")
    pipe = build_pipeline(model=str(tmp_path / "model"), upscaler="realesrgan-x4plus", device="cpu")
    pipe.save_pretrained(tmp_path / "saved")
    assert build_pipeline(model=str(tmp_path / "saved"), device="cpu").upscaler.scale == 4


def test_an_upscaler_alone_moves_to_a_device_and_a_precision() -> None:
    pipe = build_pipeline(model="none", upscaler=Doubling(), device="cpu").to("meta", torch.float16)
    assert (pipe.upscaler_device, pipe.upscaler_dtype) == (torch.device("meta"), torch.float16)


def test_an_upscaler_alone_can_be_cancelled_between_two_regions() -> None:
    upscaler = Doubling()
    pipe = build_pipeline(model="none", upscaler=upscaler, device="cpu", scale=2, region=256, region_overlap=0)
    begun, go, enlarge = Event(), Event(), upscaler.upscale

    def slow(image: Tensor) -> Tensor:
        begun.set()
        assert go.wait(60)
        return enlarge(image)

    upscaler.upscale = slow  # type: ignore[method-assign]
    with RestorationQueue(pipe) as queue:
        future = queue.submit(tiny.photo(600, 28))
        assert begun.wait(60)
        future.cancel()
        go.set()
    assert len(upscaler.seen) == 1
