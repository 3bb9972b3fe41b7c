"""The tiny autoencoder in place of the large one: the contract, saving and loading, and what is refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import xpsr_tiny_vae
from diffusers import AutoencoderTiny
from safetensors.torch import load_file

from xpsr_sdk import CheckpointError, Pipeline, Registry, build_pipeline
from xpsr_sdk.testing import check_backbone, check_distribution, tiny

BLOCKS: dict[str, Any] = {
    "num_encoder_blocks": (1, 1, 1),
    "num_decoder_blocks": (1, 1, 1),
    "encoder_block_out_channels": (8, 8, 8),
    "decoder_block_out_channels": (8, 8, 8),
}


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny autoencoder with the latents of the tiny Stable Diffusion."""
    folder = tmp_path_factory.mktemp("autoencoder")
    torch.manual_seed(0)
    AutoencoderTiny(**BLOCKS).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole tiny Stable Diffusion with a large autoencoder."""
    folder = tmp_path_factory.mktemp("models") / "sd"
    tiny.write_stable_diffusion(folder)
    tiny.write_networks(folder, in_channels=4, out_channels=4)
    return folder


def build(model: Path, autoencoder: Path | str) -> Pipeline:
    chosen = {"name": "tiny-vae", "autoencoder": str(autoencoder)}
    return build_pipeline(model=str(model), backbone=chosen, device="cpu", registry=Registry([xpsr_tiny_vae]))


def restored(pipeline: Pipeline) -> bytes:
    return pipeline(tiny.photo(20, 16), seed=1, num_inference_steps=2).image.tobytes()


def test_the_contract(autoencoder: Path) -> None:
    check_backbone({"name": "tiny-vae", "autoencoder": str(autoencoder)}, registry=Registry([xpsr_tiny_vae]))


def test_the_distribution() -> None:
    check_distribution("xpsr-tiny-vae")


def test_the_tiny_autoencoder_decodes(model: Path, autoencoder: Path) -> None:
    pipeline = build(model, autoencoder)
    assert isinstance(pipeline.vae, AutoencoderTiny)
    assert pipeline.stride == 4
    large = build_pipeline(model=str(model), device="cpu")
    assert restored(pipeline) != restored(large)


def test_encoding_and_decoding_are_diffusers_own(model: Path, autoencoder: Path) -> None:
    backbone = build(model, autoencoder).backbone
    reference = AutoencoderTiny.from_pretrained(autoencoder)
    image = torch.rand(1, 3, 16, 24) * 2 - 1
    with torch.no_grad():
        latents = backbone.encode(image, image)
        torch.testing.assert_close(latents, reference.encode(image).latents)
        torch.testing.assert_close(backbone.decode(latents, image), reference.decode(latents).sample)


def test_a_saved_pipeline_holds_a_copy(
    model: Path, autoencoder: Path, tmp_path: Path, xpsr_registry: Callable[..., Registry]
) -> None:
    registry = xpsr_registry(xpsr_tiny_vae)
    gone = tmp_path / "autoencoder"
    shutil.copytree(autoencoder, gone)
    pipeline = build(model, gone)
    pipeline.save_pretrained(tmp_path / "saved")
    shutil.rmtree(gone)

    again = Pipeline.from_pretrained(tmp_path / "saved", registry=registry)
    again.set_progress_bar_config(disable=True)
    assert restored(again) == restored(pipeline)
    with pytest.warns(UserWarning, match=r"cannot be had.* The copy in .*vae is used"):
        built = build_pipeline(model=str(tmp_path / "saved"), device="cpu", registry=registry)
    assert restored(built) == restored(pipeline)


class TestRefusals:
    def test_an_autoencoder_that_is_nowhere(self, model: Path, tmp_path: Path) -> None:
        nowhere = tmp_path / "nowhere"
        with pytest.raises(
            CheckpointError, match=r"nowhere' cannot be had: it is neither a folder here nor on the hub"
        ):
            build(model, nowhere)

    def test_a_large_autoencoder(self, model: Path) -> None:
        with pytest.raises(CheckpointError, match="is a AutoencoderKL; an AutoencoderTiny is needed"):
            build(model, model / "vae")

    def test_damaged_weights(self, model: Path, autoencoder: Path, tmp_path: Path) -> None:
        shutil.copytree(autoencoder, tmp_path / "broken")
        (weights,) = (tmp_path / "broken").glob("*.safetensors")
        weights.write_bytes(weights.read_bytes()[:100])
        with pytest.raises(CheckpointError, match=r"broken' cannot be read \("):
            build(model, tmp_path / "broken")

    def test_pickled_weights(self, model: Path, autoencoder: Path, tmp_path: Path) -> None:
        shutil.copytree(autoencoder, tmp_path / "pickled")
        (weights,) = (tmp_path / "pickled").glob("*.safetensors")
        torch.save(load_file(weights), weights.with_suffix(".bin"))
        weights.unlink()
        with pytest.raises(CheckpointError, match="cannot be read"):
            build(model, tmp_path / "pickled")

    def test_other_latents(self, model: Path, tmp_path: Path) -> None:
        AutoencoderTiny(latent_channels=16, **BLOCKS).save_pretrained(tmp_path)
        with pytest.raises(
            CheckpointError, match=r"has 16 channels of latents, and the one that it replaces, .*, has 4"
        ):
            build(model, tmp_path)
