"""The degradation of a camera: halos of sharpening, photon noise, and blur in linear light."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from xpsr_sdk.builtin.camera_degradation import CameraDegradation

QUIET = {
    "scale": 1,
    "sigma": (0.01, 0.01),
    "photon_noise": (1e-12, 1e-12),
    "smoothing": (0, 0),
    "sharpening": (0, 0),
    "jpeg_quality": (100, 100),
}


def shot(hr: Tensor, **options: Any) -> Tensor:
    """The photo of a camera that does nothing but what the options ask for, 3 H W."""
    camera = CameraDegradation(CameraDegradation.Config.model_validate(QUIET | options))
    return camera(hr[None], [torch.Generator().manual_seed(1)])[0]


def edge() -> Tensor:
    """A dark left half and a bright right half, 3 32 32."""
    return torch.cat([torch.full((3, 32, 16), 0.3), torch.full((3, 32, 16), 0.7)], dim=-1)


def test_a_camera_that_does_nothing_changes_next_to_nothing() -> None:
    assert (shot(edge()) - edge()).abs().mean() < 0.003


def test_sharpening_leaves_halos_beside_an_edge() -> None:
    blurred, sharpened = (shot(edge(), sigma=(1, 1), sharpening=(amount, amount)) for amount in (0, 2))
    assert blurred.min() > 0.28
    assert sharpened.min() < 0.25
    assert sharpened.max() > 0.73


def test_photon_noise_is_about_as_strong_in_dark_parts_as_in_bright_ones() -> None:
    dark, bright = (shot(torch.full((3, 64, 64), level), photon_noise=(1e-3, 1e-3)).std() for level in (0.2, 0.8))
    assert 0.01 < bright < dark < 1.3 * bright


def test_smoothing_takes_noise_away() -> None:
    gray = torch.full((3, 64, 64), 0.5)
    rough, smooth = (shot(gray, photon_noise=(1e-3, 1e-3), smoothing=(sigma, sigma)).std() for sigma in (0.0, 0.8))
    assert smooth < 0.6 * rough


def test_pixels_average_light_and_not_display_values() -> None:
    stripes = torch.tensor([0.0, 1.0]).repeat(16).expand(3, 32, 32).contiguous()
    assert shot(stripes, scale=2).mean() == pytest.approx(0.5 ** (1 / 2.2), abs=0.01)


def test_what_was_drawn_is_told_and_lies_in_the_ranges() -> None:
    camera, generator = CameraDegradation(), torch.Generator().manual_seed(0)
    records = [camera.draw(generator) for _ in range(500)]
    assert all(0.8 <= r.sigma[0] <= 4 and r.sigma[1] <= r.sigma[0] for r in records)
    assert all(1e-5 <= r.photon_noise <= 1.5e-3 and 75 <= r.jpeg_quality <= 100 for r in records)
    assert 1.6 < sorted(r.sigma[0] for r in records)[250] < 2.0  # small blurs are as frequent as large ones, by ratio
    assert len({r.sharpening for r in records}) == 500


def test_a_reversed_range_is_refused() -> None:
    with pytest.raises(ValidationError, match="lowest, highest"):
        CameraDegradation.Config(sharpening=(2, 1))
