"""Colour correction: the detail of the result, the colours of the input."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from xpsr_sdk.config import ColorCorrection
from xpsr_sdk.engine.color import _to_lab, _to_rgb, correct_color

sides = st.integers(1, 40)


def image(height: int, width: int, seed: int = 0, low: float = 0.0, high: float = 1.0) -> Tensor:
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(seed)) * (high - low) + low


def coarse(x: Tensor) -> Tensor:
    return torch.nn.functional.avg_pool2d(x, 16)


@given(height=sides, width=sides)
def test_none_is_the_identity(height: int, width: int) -> None:
    x = image(height, width)
    assert torch.equal(correct_color(x, image(height, width, 1), "none"), x)


@pytest.mark.parametrize("method", get_args(ColorCorrection))
@given(height=st.integers(2, 40), width=st.integers(2, 40))
def test_any_size_gives_an_image(method: ColorCorrection, height: int, width: int) -> None:
    out = correct_color(image(height, width), image(height, width, 1), method)
    assert out.shape == (1, 3, height, width)
    assert ((out >= 0) & (out <= 1)).all()


@pytest.mark.parametrize("method", get_args(ColorCorrection))
def test_a_photo_of_one_colour_survives(method: ColorCorrection) -> None:
    x = torch.full((1, 3, 9, 9), 0.25)
    torch.testing.assert_close(correct_color(x, x, method), x)


@pytest.mark.parametrize("method", ["adain", "wavelet", "lab"])
@given(seed=st.integers(0, 1000))
def test_an_image_with_the_right_colours_stays(method: ColorCorrection, seed: int) -> None:
    x = image(31, 17, seed)
    torch.testing.assert_close(correct_color(x, x, method), x, atol=1e-5, rtol=1e-5)


@given(seed=st.integers(0, 1000))
def test_adain_takes_over_mean_and_deviation(seed: int) -> None:
    reference = image(33, 21, seed, low=0.35, high=0.6)
    out = correct_color(image(33, 21, seed + 1), reference, "adain")
    torch.testing.assert_close(out.mean((2, 3)), reference.mean((2, 3)), atol=2e-3, rtol=0)
    torch.testing.assert_close(out.std((2, 3)), reference.std((2, 3)), atol=2e-3, rtol=0)


@pytest.mark.parametrize(
    ("rgb", "lab"),
    [
        ((255, 255, 255), (100, 0, 0)),
        ((0, 0, 0), (0, 0, 0)),
        ((255, 0, 0), (53.24, 80.09, 67.20)),
        ((0, 0, 255), (32.30, 79.19, -107.86)),
        ((10, 40, 30), (13.68, -14.23, 3.32)),
    ],
)
def test_lab_is_that_of_the_cie(rgb: tuple[int, ...], lab: tuple[float, ...]) -> None:
    pixel = torch.tensor(rgb)[None, :, None, None] / 255
    lightness, *colors = _to_lab(pixel).flatten().tolist()
    assert (lightness - 16, *colors) == pytest.approx(lab, abs=0.05)
    torch.testing.assert_close(_to_rgb(_to_lab(pixel)), pixel, atol=2e-4, rtol=0)


@given(seed=st.integers(0, 1000))
def test_lab_takes_over_mean_and_deviation_of_lightness_and_colour(seed: int) -> None:
    reference = image(33, 21, seed, low=0.35, high=0.6)
    out = correct_color(image(33, 21, seed + 1, low=0.3, high=0.7), reference, "lab")
    found, wanted = _to_lab(out).flatten(2), _to_lab(reference).flatten(2)
    torch.testing.assert_close(found.mean(2), wanted.mean(2), atol=0.3, rtol=0)
    torch.testing.assert_close(found.std(2), wanted.std(2), atol=0.3, rtol=0)


def test_wavelet_takes_over_what_is_coarse_and_keeps_the_detail() -> None:
    detail = image(96, 96, 1, low=-0.05, high=0.05)
    reference = torch.full((1, 3, 96, 96), 0.6)
    out = correct_color(0.3 + detail, reference, "wavelet")
    torch.testing.assert_close(coarse(out), coarse(reference), atol=0.01, rtol=0)
    torch.testing.assert_close(out - 0.6, detail, atol=0.02, rtol=0)
