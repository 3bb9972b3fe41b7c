"""Tiles cover every latent, and blend to the whole."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from xpsr_sdk.engine.tiling import Tile, gaussian_weights, plan_tiles

sizes = st.integers(1, 80)


@given(height=sizes, width=sizes, tile=st.integers(1, 40), overlap=st.integers(0, 20))
def test_tiles_cover_every_latent_and_lie_inside(height: int, width: int, tile: int, overlap: int) -> None:
    covered = torch.zeros(height, width, dtype=torch.int)
    tiles = plan_tiles(height, width, tile, overlap)
    for part in tiles:
        assert 0 <= part.top < part.bottom <= height
        assert 0 <= part.left < part.right <= width
        part.of(covered).add_(1)
    assert covered.min() > 0
    assert len({(part.bottom - part.top, part.right - part.left) for part in tiles}) == 1  # they share a batch
    assert len(set(tiles)) == len(tiles)


@given(height=sizes, width=sizes, tile=st.integers(1, 40), overlap=st.integers(0, 20))
def test_no_tile_has_more_latents_than_asked_for(height: int, width: int, tile: int, overlap: int) -> None:
    for part in plan_tiles(height, width, tile, overlap):
        assert (part.bottom - part.top) * (part.right - part.left) <= tile * tile


@given(height=st.integers(1, 20), width=st.integers(1, 20), overlap=st.integers(0, 20))
def test_a_small_map_stays_whole(height: int, width: int, overlap: int) -> None:
    whole = [Tile(0, 0, height, width)]
    assert plan_tiles(height, width, max(height, width), overlap) == whole
    assert plan_tiles(height, width, None, overlap) == whole


def test_neighbours_overlap_as_asked() -> None:
    tiles = plan_tiles(10, 24, 10, 3)
    assert [(tile.left, tile.right) for tile in tiles] == [(0, 10), (7, 17), (14, 24)]


def test_a_thin_map_is_cut_across_alone() -> None:
    tiles = plan_tiles(5, 24, 10, 3)
    assert [(tile.top, tile.bottom, tile.left, tile.right) for tile in tiles] == [
        (0, 5, 0, 10),
        (0, 5, 7, 17),
        (0, 5, 14, 24),
    ]


def test_a_tile_is_cut_out_of_a_larger_map_too() -> None:
    image = torch.arange(64).reshape(1, 1, 8, 8)
    assert torch.equal(Tile(1, 2, 3, 4).of(image, stride=2), image[..., 2:6, 4:8])


@given(height=st.integers(1, 70), width=st.integers(1, 70))
def test_weights_are_positive_and_largest_inside(height: int, width: int) -> None:
    weights = gaussian_weights(height, width).float()
    assert weights.shape == (height, width)
    assert weights.min() > 0
    assert weights[height // 2, (width - 1) // 2] == weights.max()
