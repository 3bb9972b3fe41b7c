"""The residual autoencoder, with each of its transforms."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from xpsr_sdk.builtin.grid import LIMIT, without_grid
from xpsr_sdk.builtin.residual import TRANSFORMS, ResidualAutoencoder
from xpsr_sdk.testing.tensors import noise


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("stride", [2, 8])
def test_nothing_is_lost(transform: str, stride: int) -> None:
    autoencoder = ResidualAutoencoder(stride, transform=transform)
    upscaled = noise(2, 3, 3 * stride, 4 * stride).sigmoid()
    image = noise(2, 3, 3 * stride, 4 * stride, seed=1).tanh()
    latents = autoencoder.encode(image, upscaled)
    assert latents.shape == (2, 3 * stride**2, 3, 4)
    torch.testing.assert_close(autoencoder.decode(latents, upscaled), image, rtol=0, atol=1e-5)


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_zero_latents_are_the_upscaled_photo(transform: str) -> None:
    autoencoder = ResidualAutoencoder(4, transform=transform)
    upscaled = noise(1, 3, 8, 8).sigmoid()
    assert torch.equal(autoencoder.decode(torch.zeros(1, 48, 2, 2), upscaled), 2 * upscaled - 1)


def test_the_transform_is_saved_with_the_model(tmp_path: Path) -> None:
    ResidualAutoencoder(4, transform="wavelet").save_pretrained(tmp_path)
    image, upscaled = noise(1, 3, 8, 8).tanh(), torch.zeros(1, 3, 8, 8)
    loaded = ResidualAutoencoder.from_pretrained(tmp_path)
    same = ResidualAutoencoder(4, transform="wavelet")
    assert torch.equal(loaded.encode(image, upscaled), same.encode(image, upscaled))
    assert not torch.equal(loaded.encode(image, upscaled), ResidualAutoencoder(4).encode(image, upscaled))


def test_a_bias_that_repeats_at_each_latent_can_be_removed() -> None:
    with_grid, without = (ResidualAutoencoder(4, transform="wavelet", remove_grid=remove) for remove in (False, True))
    upscaled = torch.full((1, 3, 64, 64), 0.5)
    smooth = torch.linspace(-0.5, 0.5, 64).expand(1, 3, 64, 64)
    bias = torch.cat([torch.zeros(3), torch.full((45,), 0.05)]).view(1, 48, 1, 1)
    # In the left half alone, as a network's bias may be: the mean over the whole photo does not show it.
    biased = with_grid.encode(smooth, upscaled) + bias * (torch.arange(16) < 8)
    kept, removed = (
        (one.decode(biased, upscaled) - smooth)[..., 8:-8, 8:24].abs().mean() for one in (with_grid, without)
    )
    assert removed < 0.3 * kept


@given(height=st.integers(1, 40), width=st.integers(1, 40), seed=st.integers(0, 99))
def test_removing_a_grid_changes_no_photo_by_more_than_the_pattern_that_is_looked_for(
    height: int, width: int, seed: int
) -> None:
    image = noise(1, 3, 4 * height, 4 * width, seed=seed).tanh()
    assert (without_grid(image, 4) - image).abs().max() < 4 * LIMIT
    flat = torch.full_like(image, 0.3)
    assert torch.allclose(without_grid(flat, 4), flat, atol=1e-6)
