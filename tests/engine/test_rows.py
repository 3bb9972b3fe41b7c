"""An autoencoder that computes a few rows at a time gives what it gives for the whole image."""

from __future__ import annotations

import pytest
import torch
from diffusers import AutoencoderKL
from hypothesis import given
from hypothesis import strategies as st

from tests.support import tiny
from xpsr_sdk.engine.rows import autoencoder_in_rows


@pytest.fixture(scope="module")
def vae() -> AutoencoderKL:
    torch.manual_seed(0)
    vae = AutoencoderKL(
        block_out_channels=(4, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        norm_num_groups=2,
    )
    tiny.shake(vae)
    return vae.eval()


@given(
    height=st.integers(1, 8), width=st.integers(1, 8), rows=st.sampled_from([8, 10, 16, 64]), batch=st.integers(1, 2)
)
@torch.no_grad()
def test_any_size_in_any_number_of_rows(vae: AutoencoderKL, height: int, width: int, rows: int, batch: int) -> None:
    image = torch.rand(batch, 3, height * 4, width * 4, generator=torch.Generator().manual_seed(0)) * 2 - 1
    latents = torch.randn(batch, 4, height, width, generator=torch.Generator().manual_seed(1))
    encoded, decoded = vae.encode(image).latent_dist.mode(), vae.decode(latents).sample
    with autoencoder_in_rows(vae, rows):
        torch.testing.assert_close(vae.encode(image).latent_dist.mode(), encoded, atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(vae.decode(latents).sample, decoded, atol=1e-3, rtol=1e-3)


@torch.no_grad()
def test_the_statistics_are_those_of_the_whole_image(vae: AutoencoderKL) -> None:
    latents = torch.randn(1, 4, 16, 4)
    latents[:, :, 8:] *= 5  # a half that norms of its own would make alike to the other
    with autoencoder_in_rows(vae, 8):
        in_rows = vae.decode(latents).sample
    torch.testing.assert_close(in_rows, vae.decode(latents).sample, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("rows", [None, 8])
def test_no_trace_is_left(vae: AutoencoderKL, rows: int | None) -> None:
    with autoencoder_in_rows(vae, rows):
        assert ("forward" in vars(vae.decoder)) == (rows is not None)
    assert "forward" not in vars(vae.decoder)
    assert "forward" not in vars(vae.encoder)
