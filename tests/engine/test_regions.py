"""Large pictures in regions: they cover the result, and see the same noise where they overlap."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from xpsr_sdk.engine.regions import noise_at, plan_regions

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


@given(top=st.integers(0, 200), left=st.integers(0, 200), height=st.integers(1, 90), width=st.integers(1, 90))
def test_noise_depends_on_the_place_alone(top: int, left: int, height: int, width: int) -> None:
    whole = noise_at(3, 4, 0, 0, 300, 300)
    assert torch.equal(noise_at(3, 4, top, left, height, width), whole[..., top : top + height, left : left + width])


def test_noise_is_normal_and_follows_the_seed() -> None:
    noise = noise_at(3, 4, 0, 0, 256, 256)
    assert abs(float(noise.mean())) < 0.01
    assert abs(float(noise.std()) - 1) < 0.01
    assert not torch.equal(noise, noise_at(4, 4, 0, 0, 256, 256))
