"""Whoever waits is told which tile an upscaler enlarges."""

from __future__ import annotations

import pytest
import torch

from xpsr_sdk import Registry
from xpsr_sdk.engine.upscaler_tiles import upscale_in_tiles
from xpsr_sdk.engine.watching import watched_by


@pytest.mark.parametrize(
    ("side", "counts"), [(16, [(0, 1)]), (8, [(done, 4) for done in range(5)])], ids=["one tile", "four tiles"]
)
def test_tiles_are_counted_from_the_first_one_on(side: int, counts: list[tuple[int, int]]) -> None:
    told: list[tuple[str, int, int]] = []
    with watched_by(lambda *each: told.append(each)):
        upscale_in_tiles(Registry([]).create("upscaler", "bicubic"), torch.rand(1, 3, 16, 16), side)
    assert told == [("upscale", *count) for count in counts]
