"""The wavelet of latents loses nothing, keeps energies, and has no blocks."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from xpsr_sdk.builtin.wavelet import analyse, synthesise
from xpsr_sdk.testing.tensors import noise

STRIDES = [1, 2, 4, 8, 16]


@given(
    stride=st.sampled_from(STRIDES),
    batch=st.integers(1, 2),
    channels=st.integers(1, 4),
    rows=st.integers(1, 5),
    columns=st.integers(1, 5),
)
def test_what_is_analysed_is_synthesised_again(stride: int, batch: int, channels: int, rows: int, columns: int) -> None:
    image = noise(batch, channels, rows * stride, columns * stride)
    latents = analyse(image, stride)
    assert latents.shape == (batch, channels * stride**2, rows, columns)
    torch.testing.assert_close(synthesise(latents, stride), image, rtol=0, atol=1e-4)
    torch.testing.assert_close(analyse(synthesise(latents, stride), stride), latents, rtol=0, atol=1e-4)


@pytest.mark.parametrize("stride", STRIDES)
def test_squared_errors_of_latents_are_those_of_pixels(stride: int) -> None:
    image = noise(1, 3, 128, 128)
    assert float(analyse(image, stride).square().sum() / image.square().sum()) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("stride", [4, 8])
def test_a_latent_reaches_beyond_its_block(stride: int) -> None:
    latents = torch.zeros(1, stride**2, 9, 9)
    latents[0, 0, 4, 4] = 1
    pattern = synthesise(latents, stride)[0, 0]
    block = slice(4 * stride, 5 * stride)
    outside = pattern.square().sum() - pattern[block, block].square().sum()
    assert outside > 0.05 * pattern.square().sum()
    # It is smooth where blocks meet: no step there is larger than the largest one within the block.
    steps = pattern.diff(dim=1).abs()
    assert steps[:, 4 * stride - 1].max() <= steps[block, block].max()


def test_a_flat_image_is_all_in_the_first_channels() -> None:
    latents = analyse(torch.full((1, 3, 16, 16), 0.5), 4)
    assert latents[:, 3:].abs().max() < 1e-5
    torch.testing.assert_close(latents[:, :3], torch.full((1, 3, 4, 4), 2.0), rtol=0.03, atol=0)


def test_channels_do_not_mix() -> None:
    image = torch.zeros(1, 3, 16, 16)
    image[:, 1] = noise(1, 16, 16)
    latents = analyse(image, 4)
    assert latents[:, [0, 2]].abs().max() == 0
    assert synthesise(latents, 4)[:, [0, 2]].abs().max() < 1e-6
