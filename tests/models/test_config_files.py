"""The config.json of networks and schedules: values of a wrong type are refused before a class stumbles over them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch

from tests.support import tiny
from xpsr_sdk import CheckpointError, build_pipeline
from xpsr_sdk.builtin.residual import ResidualAutoencoder
from xpsr_sdk.errors import told_by_library
from xpsr_sdk.models.config_files import check_entries
from xpsr_sdk.models.controlnet import XPSRControlNet
from xpsr_sdk.models.pretrained import load_network
from xpsr_sdk.models.unet import XPSRUNet


@pytest.mark.parametrize(
    ("cls", "entries", "rule"),
    [
        (XPSRUNet, {"down_block_types": 1e9}, "down_block_types must be a list, with text in each place, not 1"),
        (XPSRUNet, {"up_block_types": "UpBlock2D"}, "up_block_types must be a list"),
        (XPSRUNet, {"down_block_types": [3, "DownBlock2D"]}, "with text in each place"),
        (XPSRUNet, {"sample_size": 1.5}, "sample_size must be a whole number or a list"),
        (XPSRUNet, {"act_fn": 3}, "act_fn must be text, not 3"),
        (XPSRUNet, {"pixel_attention": "x"}, "pixel_attention must be true or false or a list"),
        (XPSRControlNet, {"mid_block_scale_factor": "x"}, "mid_block_scale_factor must be a number, not 'x'"),
        (diffusers.AutoencoderKL, {"use_quant_conv": 1}, "use_quant_conv must be true or false, not 1"),
        (ResidualAutoencoder, {"stride": {}}, "stride must be a whole number, not {}"),
        (ResidualAutoencoder, {"transform": "x"}, "transform must be 'unshuffle' or 'wavelet', not 'x'"),
        (diffusers.DDIMScheduler, {"trained_betas": 1}, "trained_betas must be a list, with a number in each place"),
        (diffusers.DDIMScheduler, {"timestep_spacing": "x"}, "must be 'leading' or 'trailing' or 'linspace', not 'x'"),
    ],
)
def test_entries_of_a_wrong_type_are_named(cls: type, entries: dict[str, Any], rule: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        check_entries(cls, entries, Path("config.json"))
    assert rule in str(caught.value)


def test_what_diffusers_means_by_its_types_is_allowed() -> None:
    entries = {"transformer_layers_per_block": [1, 2, [3, 4]], "mid_block_scale_factor": 1, "upcast_attention": None}
    entries |= {"attention_head_dim": [5, 10, 20], "sample_size": [64, 96], "pixel_attention": [True, False]}
    check_entries(XPSRUNet, entries, Path("config.json"))
    check_entries(diffusers.DDIMScheduler, {"trained_betas": [0.1, 0.2], "an_old_entry": {}}, Path("config.json"))


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        (
            "tokenizer/tokenizer_config.json",
            "{",
            r"tokenizer_config\.json is damaged or no JSON file: what stands at line",
        ),
        ("tokenizer/tokenizer_config.json", {"model_max_length": "x"}, "model is damaged or not a complete"),
        ("tokenizer/tokenizer_config.json", {"eos_token": "x y"}, "its eos_token 'x y' is none of the text encoder's"),
        ("vae/config.json", {"stride": 1000}, "stride: must be at most 64, not 1000"),
        ("controlnet/config.json", {"mid_block_scale_factor": "x"}, "mid_block_scale_factor must be a number"),
        ("unet/config.json", {"norm_num_groups": 3}, r"valid model \(num_channels"),
        ("text_encoder/config.json", {"hidden_act": "nosuch"}, "text_encoder is damaged or no CLIPTextModel"),
    ],
)
def test_the_damaged_file_is_named_in_our_words(
    tiny_model: Path, tmp_path: Path, file: str, damage: str | dict[str, Any], message: str
) -> None:
    shutil.copytree(tiny_model, tmp_path / "model")
    target = tmp_path / "model" / file
    is_text = isinstance(damage, str)
    target.write_text(damage if is_text else json.dumps(json.loads(target.read_text(encoding="utf-8")) | damage))
    with pytest.raises(CheckpointError, match=message) as caught:
        build_pipeline(model=str(tmp_path / "model"), device="cpu")(tiny.PHOTO, scale=1, num_inference_steps=1)
    assert "Error: " not in str(caught.value)


def test_a_damaged_network_leaves_the_precision_of_others_as_it_is(tmp_path: Path) -> None:
    shutil.copytree(tiny.SD_TINY / "base" / "vae", tmp_path / "vae")
    config = json.loads((tmp_path / "vae" / "config.json").read_text(encoding="utf-8"))
    tiny.write_json(tmp_path / "vae" / "config.json", config | {"norm_num_groups": 7})
    with pytest.raises(CheckpointError, match="num_groups"):
        load_network(diffusers.AutoencoderKL, tmp_path / "vae", torch.bfloat16)
    assert torch.get_default_dtype() == torch.float32


def test_of_what_a_library_says_to_people_the_first_sentence_is_told() -> None:
    error = ValueError("x expected shape torch.Size([8]), but got torch.Size([15]). If you want another, pass y=True.")
    assert told_by_library(error) == " (x expected shape [8], but got [15])"
    assert told_by_library(TypeError("'int' object is not iterable")) == ""
