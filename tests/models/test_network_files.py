"""Weights are found in one file or in several with an index, plain or of a variant."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel

from tests.support import tiny
from xpsr_sdk import CheckpointError, Pipeline, build_pipeline
from xpsr_sdk.models.network_files import find_network_files

WHOLE = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A tiny SD 1.x, to be changed."""
    return shutil.copytree(tiny.SD_TINY / "base", tmp_path / "base")


def restored(**settings: Any) -> Any:
    pipeline = build_pipeline(tiny.sd_config(), **settings)
    return pipeline(tiny.PHOTO, seed=1, num_inference_steps=2, prompt="a street").image


def test_a_base_saved_by_the_libraries_in_any_form_is_the_same_base(base: Path, tmp_path: Path) -> None:
    expected = restored()
    for options in ({"variant": "fp32"}, {"max_shard_size": "20KB"}, {"max_shard_size": "20KB", "variant": "fp32"}):
        for name, cls in (("vae", AutoencoderKL), ("text_encoder", CLIPTextModel)):
            network: Any = cls.from_pretrained(tiny.SD_TINY / "base" / name)
            for file in base.glob(f"{name}/*.safetensors*"):
                file.unlink()
            network.save_pretrained(base / name, **options)
            if "max_shard_size" in options:
                assert len(list((base / name).glob("*.safetensors"))) > 1
        assert tiny.same(restored(model=str(base)), expected)


def test_a_checkpoint_in_shards_is_the_same_checkpoint(tmp_path: Path) -> None:
    checkpoint = shutil.copytree(tiny.SD_TINY / "xpsr", tmp_path / "xpsr")
    for part in ("unet", "controlnet"):
        shard(checkpoint / part)
    assert tiny.same(restored(checkpoint=checkpoint), restored())


def test_a_whole_model_of_a_variant_is_read_and_checked(tmp_path: Path) -> None:
    pipeline, half = build_pipeline(tiny.sd_config()), tmp_path / "half"
    pipeline.save_pretrained(half, variant="fp16")
    for options in ({}, {"variant": "fp16"}, {"variant": "fp16", "device_map": "cpu"}):
        found = Pipeline.from_pretrained(half, **options)
        assert torch.equal(found.unet.conv_in.weight, pipeline.unet.conv_in.weight)
    file = half / "unet" / WHOLE.replace(".", ".fp16.")
    tensors = load_file(file)
    del tensors["conv_in.weight"]
    save_file(tensors, file, {"format": "pt"})
    for options in ({"variant": "fp16"}, {"variant": "fp16", "device_map": "balanced"}, {"device_map": "cpu"}):
        with pytest.raises(CheckpointError, match=r"conv_in.weight is missing"):
            Pipeline.from_pretrained(half, **options)


def test_the_plain_weights_go_before_a_variant(tmp_path: Path) -> None:
    for name in ("model.safetensors", "model.fp16.safetensors", "model.non_ema.safetensors"):
        save_file({"a": torch.zeros(1)}, tmp_path / name)
    assert find_network_files(tmp_path).files[0].name == "model.safetensors"
    assert find_network_files(tmp_path, "fp16").files[0].name == "model.fp16.safetensors"
    (tmp_path / "model.safetensors").unlink()
    assert find_network_files(tmp_path).files[0].name == "model.fp16.safetensors"
    (tmp_path / "model.fp16.safetensors").rename(tmp_path / "model.int8.safetensors")
    with pytest.raises(CheckpointError, match=r"holds several variants and no plain weights. Known: int8, non_ema"):
        find_network_files(tmp_path)


def shard(folder: Path) -> list[Path]:
    """Write the weights of a folder in two files and an index."""
    tensors = load_file(folder / WHOLE)
    names, files = sorted(tensors), {}
    for i, part in enumerate((names[::2], names[1::2]), start=1):
        file = f"diffusion_pytorch_model-0000{i}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, folder / file, {"format": "pt"})
        files |= dict.fromkeys(part, file)
    (folder / f"{WHOLE}.index.json").write_text(json.dumps({"weight_map": files}))
    (folder / WHOLE).unlink()
    return sorted(folder.glob("*-of-*"))


@pytest.mark.parametrize("part", ["unet", "vae"])
def test_a_shard_that_is_cut_off_or_is_named(base: Path, part: str) -> None:
    folder = base / "vae" if part == "vae" else shutil.copytree(tiny.SD_TINY / "xpsr", base / "xpsr") / "unet"
    settings = {"model": str(base)} if part == "vae" else {"checkpoint": base / "xpsr"}
    second = shard(folder)[1]
    second.write_bytes(second.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"00002-of-00002.safetensors cannot be .*: .* its end is missing"):
        restored(**settings)
    second.unlink()
    with pytest.raises(CheckpointError, match=r"00002-of-00002.safetensors does not exist"):
        restored(**settings)
    (folder / f"{WHOLE}.index.json").unlink()
    with pytest.raises(CheckpointError, match=r"holds .*00001-of-00002.safetensors, but no index"):
        restored(**settings)
