"""Another autoencoder than the model's own, in each form that people have."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import save_file

from tests.support import original_layout, tiny
from xpsr_sdk import CheckpointError, ConfigError, build_pipeline
from xpsr_sdk.models.other_vae import folder_of_vae
from xpsr_sdk.models.pretrained import load_network
from xpsr_sdk.testing.tiny import shake


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An autoencoder like that of the tiny model, with other weights, in each form."""
    folder = tmp_path_factory.mktemp("vae")
    vae: Any = AutoencoderKL.from_pretrained(tiny.SD_TINY / "base" / "vae")
    shake(vae)
    vae.save_pretrained(folder / "alone")
    vae.save_pretrained(folder / "model" / "vae")
    shutil.copy(folder / "alone" / "diffusion_pytorch_model.safetensors", folder / "diffusers.safetensors")
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    renamed = vae.state_dict()
    for new, before in old.items():
        renamed = {name.replace(f".{new}.", f".{before}."): tensor for name, tensor in renamed.items()}
    save_file(renamed, folder / "old.safetensors")
    for name, prefix in (("original.safetensors", ""), ("prefixed.safetensors", "first_stage_model.")):
        tensors = original_layout.vae_tensors(vae, prefix)
        save_file({key: x.contiguous() for key, x in tensors.items()}, folder / name)
    torch.save({"state_dict": original_layout.vae_tensors(vae, "")}, folder / "pickled.pt")
    return folder


@pytest.mark.parametrize(
    "name",
    ["alone", "model", "diffusers.safetensors", "old.safetensors", "original.safetensors", "prefixed.safetensors",
     "pickled.pt"],
)  # fmt: skip
def test_an_autoencoder_is_read_in_every_form(other: Path, name: str) -> None:
    expected = AutoencoderKL.from_pretrained(other / "alone").state_dict()
    folder = folder_of_vae(str(other / name), tiny.SD_TINY / "base" / "vae")
    found = load_network(AutoencoderKL, folder, torch.float32).state_dict()
    assert all(torch.equal(expected[key], found[key]) for key in expected)


def test_the_folder_of_a_model_stands_for_its_autoencoder(other: Path) -> None:
    own = tiny.SD_TINY / "base" / "vae"
    assert folder_of_vae(str(other / "model"), own) == other / "model" / "vae"
    assert folder_of_vae(str(other / "alone"), own) == other / "alone"


def test_a_saved_model_holds_it(other: Path, tmp_path: Path) -> None:
    pipeline = build_pipeline(tiny.sd_config(), vae=str(other / "original.safetensors"))
    pipeline.save_pretrained(tmp_path / "saved")
    again = build_pipeline(model=tmp_path / "saved", device="cpu", dtype="float32")
    assert torch.equal(again.vae.encoder.conv_in.weight, pipeline.vae.encoder.conv_in.weight)
    assert str(other) not in (tmp_path / "saved" / "model_index.json").read_text()


def test_what_does_not_fit_is_a_sentence(other: Path, tmp_path: Path, tiny_model: Path) -> None:
    shutil.copytree(other / "alone", tmp_path / "xl")
    config = json.loads((tmp_path / "xl" / "config.json").read_text()) | {"scaling_factor": 0.13025}
    (tmp_path / "xl" / "config.json").write_text(json.dumps(config))
    save_file({"lora_unet_a.lora_up.weight": torch.zeros(1)}, tmp_path / "lora.safetensors")
    for name, error, message in (
        ("xl", CheckpointError, r"xl is an autoencoder for other latents: its scaling_factor is 0.13025, and that of"),
        ("lora.safetensors", CheckpointError, r"is a LoRA, not an autoencoder \(VAE\) alone: name it as lora"),
        ("lost.safetensors", ConfigError, r"vae: .*lost.safetensors does not exist"),
    ):
        with pytest.raises(error, match=message):
            build_pipeline(tiny.sd_config(), vae=tmp_path / name)
    with pytest.raises(ConfigError, match=r"vae is 'any', but this backbone has its own autoencoder"):
        build_pipeline(model=tiny_model, vae="any")
    with pytest.raises(ConfigError, match=r"vae is for a diffusion model, and model is 'none'"):
        build_pipeline(model="none", vae="any")
