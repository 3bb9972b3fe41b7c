"""NIQE: the figures that BasicSR prints."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from xpsr_sdk.builtin.niqe import Niqe


def textured(height: int, width: int, octaves: int = 4) -> Tensor:
    """A picture with coarse and fine detail in 8 bits, 1 3 height width in [0, 1]."""
    random = np.random.default_rng(0)
    image = np.full((height, width, 3), 128.0)
    for octave in range(octaves):
        size = 2**octave
        coarse = random.normal(0, 10 * (octave + 1), (-(-height // size), -(-width // size), 3))
        image += coarse.repeat(size, 0).repeat(size, 1)[:height, :width]
    eight_bits = image.clip(0, 255).round().astype(np.uint8)
    return torch.from_numpy(eight_bits).permute(2, 0, 1)[None].double() / 255


@pytest.mark.parametrize(("height", "width", "printed"), [(288, 384, 8.78602), (301, 200, 12.55539)])
def test_the_figures_of_basicsr(height: int, width: int, printed: float) -> None:
    # basicsr.metrics.calculate_niqe(image in BGR, crop_border=0), basicsr-fixed 1.4.2
    niqe = Niqe(Niqe.Config(luma="ycbcr"))
    assert float(niqe.measure(textured(height, width))) == pytest.approx(printed, rel=1e-4)


def test_a_flat_photo_has_no_figure_and_a_single_block_has_one() -> None:
    assert Niqe().measure(torch.full((1, 3, 200, 200), 0.5)).isnan().all()
    assert Niqe().measure(textured(100, 150)).isfinite().all()
