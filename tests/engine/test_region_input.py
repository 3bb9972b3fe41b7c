"""A photo comes to the size of the result: the same pixels whatever the region, and nothing hidden in its edges."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.support import tiny
from xpsr_sdk.data.images import resize, to_tensor
from xpsr_sdk.data.picture import from_pil
from xpsr_sdk.engine.region_input import continue_color, resized_region
from xpsr_sdk.engine.regions import Region


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
    part, _ = resized_region(picture, Region(left, top, right, bottom), w, h)
    whole = resize(to_tensor(tiny.photo(width, height)), h, w).clamp(0, 1)
    torch.testing.assert_close(part, whole[..., top:bottom, left:right], atol=2e-5, rtol=0)


@pytest.mark.parametrize("hidden", ["black", "white", "magenta"])
def test_hidden_colours_do_not_bleed_into_edges(hidden: str) -> None:
    image = Image.new("RGBA", (40, 40), hidden)
    image.putalpha(0)
    image.paste((40, 160, 80, 255), (10, 10, 30, 30))
    color, alpha = resized_region(from_pil(image), Region(0, 0, 160, 160), 160, 160)
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
