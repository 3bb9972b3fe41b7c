"""Regions are put together without a seam, and leave nothing behind on the disk."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support import tiny
from xpsr_sdk.data.picture import from_pil, picture_of
from xpsr_sdk.engine.canvas import Canvas
from xpsr_sdk.engine.region_input import resized_region
from xpsr_sdk.engine.regions import Region, plan_regions
from xpsr_sdk.errors import ImageError


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
@pytest.mark.parametrize("overlap", [0, 24])
def test_a_result_of_regions_is_the_one_of_the_whole(mode: str, overlap: int) -> None:
    picture = from_pil(
        tiny.photo(50, 40).convert("L").convert(mode) if mode == "LA" else tiny.photo(50, 40).convert(mode)
    )
    whole = Canvas(200, 160, picture, on_disk=False)
    whole.paste(region := Region(0, 0, 200, 160), *resized_region(picture, region, 200, 160))
    canvas = Canvas(200, 160, picture, on_disk=True)
    for region in plan_regions(200, 160, 80, overlap, 4):
        canvas.paste(region, *resized_region(picture, region, 200, 160))
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
