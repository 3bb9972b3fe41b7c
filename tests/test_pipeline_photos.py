"""What the pipeline keeps of a photo: channels, bits, transparency, profile, metadata; and photos of any size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pyvips
import torch
from PIL import Image

from tests.support import tiny
from tests.support.tiny import PHOTO, same
from xpsr_sdk import (
    ConfigError,
    Pipeline,
    build_pipeline,
)
from xpsr_sdk.data.picture import picture_of


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


@pytest.mark.parametrize("as_object", [False, True])
def test_a_rotated_photo_is_stored_upright_however_it_is_given(tmp_path: Path, as_object: bool) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    tiny.photo(40, 28).save(tmp_path / "turned.jpg", exif=exif)
    restore = build_pipeline(model="none", upscaler="bicubic", device="cpu", scale=2)
    with Image.open(tmp_path / "turned.jpg") as image:
        result = restore(image if as_object else tmp_path / "turned.jpg")
    result.save(tmp_path / "result.jpg")
    with Image.open(tmp_path / "result.jpg") as stored:
        assert stored.size == (56, 80)
        assert stored.getexif().get(0x0112, 1) == 1
