"""Large pictures in regions: the same input everywhere, the same noise, and no seam."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.support import tiny
from xpsr_sdk.data.images import resize, to_tensor
from xpsr_sdk.data.picture import from_pil, picture_of
from xpsr_sdk.engine.regions import (
    Canvas,
    Region,
    continue_color,
    enlarge,
    is_flat,
    noise_at,
    plan_regions,
)
from xpsr_sdk.errors import ImageError

sizes = st.integers(20, 900)


@given(sizes, sizes, st.integers(64, 200), st.integers(0, 31), st.sampled_from([1, 4, 8]))
def test_regions_cover_the_result_and_overlap(width: int, height: int, side: int, overlap: int, stride: int) -> None:
    regions = plan_regions(width, height, side, overlap, stride)
    covered = np.zeros((height, width), bool)
    for region in regions:
        assert 0 <= region.left < region.right <= width
        assert 0 <= region.top < region.bottom <= height
        assert region.left % stride == region.top % stride == 0
        if len(regions) > 1:
            assert max(region.size) < side + stride
        # What a region fades into is there already.
        assert covered[region.top : region.top + region.fade_top, region.left : region.right].all()
        assert covered[region.top : region.bottom, region.left : region.left + region.fade_left].all()
        assert region.fade_left >= (overlap if region.left else 0)
        assert region.fade_top >= (overlap if region.top else 0)
        covered[region.top : region.bottom, region.left : region.right] = True
    assert covered.all()


def test_regions_are_no_larger_than_covering_takes() -> None:
    regions = plan_regions(4096, 4096, side=2048, overlap=128, stride=8)
    assert len(regions) == 9
    assert sum(width * height for width, height in (region.size for region in regions)) < 1.2 * 4096**2


@given(
    width=st.integers(8, 30),
    height=st.integers(8, 30),
    scale=st.floats(1, 8),
    corners=st.tuples(*[st.floats(0, 1)] * 4),
)
def test_a_region_is_a_part_of_the_whole(
    width: int, height: int, scale: float, corners: tuple[float, float, float, float]
) -> None:
    picture = from_pil(tiny.photo(width, height))
    w, h = round(width * scale), round(height * scale)
    (left, right), (top, bottom) = sorted(round(c * w) for c in corners[:2]), sorted(round(c * h) for c in corners[2:])
    right, bottom = max(right, left + 1), max(bottom, top + 1)
    if right > w or bottom > h:
        return
    part, _ = enlarge(picture, Region(left, top, right, bottom), w, h)
    whole = resize(to_tensor(tiny.photo(width, height)), h, w).clamp(0, 1)
    torch.testing.assert_close(part, whole[..., top:bottom, left:right], atol=2e-5, rtol=0)


@given(top=st.integers(0, 200), left=st.integers(0, 200), height=st.integers(1, 90), width=st.integers(1, 90))
def test_noise_depends_on_the_place_alone(top: int, left: int, height: int, width: int) -> None:
    whole = noise_at(3, 4, 0, 0, 300, 300)
    assert torch.equal(noise_at(3, 4, top, left, height, width), whole[..., top : top + height, left : left + width])


def test_noise_is_normal_and_follows_the_seed() -> None:
    noise = noise_at(3, 4, 0, 0, 256, 256)
    assert abs(float(noise.mean())) < 0.01
    assert abs(float(noise.std()) - 1) < 0.01
    assert not torch.equal(noise, noise_at(4, 4, 0, 0, 256, 256))


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
@pytest.mark.parametrize("overlap", [0, 24])
def test_a_result_of_regions_is_the_one_of_the_whole(mode: str, overlap: int) -> None:
    picture = from_pil(
        tiny.photo(50, 40).convert("L").convert(mode) if mode == "LA" else tiny.photo(50, 40).convert(mode)
    )
    whole = Canvas(200, 160, picture, on_disk=False)
    whole.paste(region := Region(0, 0, 200, 160), *enlarge(picture, region, 200, 160))
    canvas = Canvas(200, 160, picture, on_disk=True)
    for region in plan_regions(200, 160, 80, overlap, 4):
        canvas.paste(region, *enlarge(picture, region, 200, 160))
    expected, found = (np.asarray(c.picture().to_pil(), int) for c in (whole, canvas))
    assert np.abs(expected - found).max() <= 1  # both sides of a fade are rounded before it


def test_a_step_between_regions_becomes_a_slope() -> None:
    canvas = Canvas(200, 100, picture_of(np.zeros((4, 4, 1), np.uint8)), on_disk=True)
    for region in plan_regions(200, 100, 110, 20, 1):
        bright = 1.0 if region.left else 0.0
        canvas.paste(region, torch.full((1, 3, *reversed(region.size)), bright), None)
    row = np.asarray(canvas.picture().to_pil(), int)[50]
    assert (row[0], row[-1]) == (0, 255)
    assert np.abs(np.diff(row)).max() <= 255 / 10 + 1


def test_a_result_on_disk_is_gone_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    canvas = Canvas(64, 64, picture_of(np.zeros((4, 4, 3), np.uint8)), on_disk=True)
    picture = canvas.picture()
    folder = canvas._folder
    assert folder is not None
    assert len(list(folder.path.iterdir())) == 1
    del canvas, picture, folder
    assert not list(tmp_path.iterdir())


def test_a_temporary_folder_without_room_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(ImageError, match=r"has no room for the 12 MiB .* No space left on device. .* TMPDIR"):
        Canvas(2048, 2048, picture_of(np.zeros((4, 4, 3), np.uint8)), on_disk=True)
    assert not list(tmp_path.iterdir())


# Transparency


@pytest.mark.parametrize("hidden", ["black", "white", "magenta"])
def test_hidden_colours_do_not_bleed_into_edges(hidden: str) -> None:
    image = Image.new("RGBA", (40, 40), hidden)
    image.putalpha(0)
    image.paste((40, 160, 80, 255), (10, 10, 30, 30))
    color, alpha = enlarge(from_pil(image), Region(0, 0, 160, 160), 160, 160)
    assert alpha is not None
    visible = (alpha > 1 / 255).expand_as(color)
    expected = torch.tensor([40, 160, 80])[:, None, None].expand_as(color) / 255
    torch.testing.assert_close(color[visible], expected[visible], atol=1e-4, rtol=0)


def test_hidden_colours_are_those_nearby() -> None:
    color = np.zeros((64, 64, 3), np.float32)
    alpha = np.zeros((64, 64), np.float32)
    color[:, :4], alpha[:, :4] = (1, 0, 0), 1
    color[:, -4:], alpha[:, -4:] = (0, 0, 1), 1
    filled = continue_color(color, alpha)
    assert np.array_equal(filled[alpha > 0], color[alpha > 0])
    assert filled[32, 6, 0] > 0.9
    assert filled[32, 57, 2] > 0.9


def test_nothing_visible_is_no_problem() -> None:
    assert continue_color(np.ones((5, 7, 3), np.float32), np.zeros((5, 7), np.float32)).shape == (5, 7, 3)


def test_flat_parts_of_alpha_are_found() -> None:
    alpha = torch.zeros(1, 1, 64, 64)
    alpha[..., 32:] = 1
    flat = is_flat(alpha)
    assert flat[..., :20].all()
    assert flat[..., 44:].all()
    assert not flat[..., 26:38].any()
