"""No network keeps a weight that no file gave, reads a pickle, or asks for code or a size that it should not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from xpsr_sdk import CheckpointError, Pipeline, build_pipeline
from xpsr_sdk.models.checkpoints import read_json
from xpsr_sdk.toolkit import check_loaded

PARTS = ("text_encoder", "vae", "unet", "controlnet")


REFERENCE = Path("tests/fixtures/ref-sd15-tiny")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A whole model that may be damaged."""
    folder = tmp_path / "model"
    shutil.copytree(REFERENCE / "base", folder, ignore=shutil.ignore_patterns("unet", "feature_extractor"))
    shutil.copytree(REFERENCE / "xpsr", folder, dirs_exist_ok=True)
    index = json.loads((folder / "model_index.json").read_text())
    own = {"unet": ["xpsr_sdk.models.unet", "XPSRUNet"], "controlnet": ["xpsr_sdk.models.controlnet", "XPSRControlNet"]}
    unused = ("feature_extractor", "safety_checker", "requires_safety_checker")
    index = {name: value for name, value in index.items() if name not in unused} | own | {"_class_name": "Pipeline"}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def test_a_whole_model_is_read(model: Path) -> None:
    assert read_json(model / "model_index.json")["vae"] == ["diffusers", "AutoencoderKL"]
    one, two = build_pipeline(model=str(model), dtype="float32"), Pipeline.from_pretrained(model)
    for part in PARTS:
        of_one, of_two = (getattr(pipe, part).state_dict() for pipe in (one, two))
        assert all(torch.equal(of_one[name], of_two[name]) for name in of_one)


def weights_of(model: Path, part: str) -> Path:
    return next((model / part).glob("*.safetensors"))


def change_config(model: Path, part: str, **changes: Any) -> None:
    file = next((model / part).glob("*config.json"))
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def rename(tensors: dict[str, torch.Tensor]) -> None:
    tensors["renamed"] = tensors.pop(max(tensors))


def drop(tensors: dict[str, torch.Tensor]) -> None:
    del tensors[max(tensors)]


def add(tensors: dict[str, torch.Tensor]) -> None:
    tensors["another"] = torch.zeros(1)


def reshape(tensors: dict[str, torch.Tensor]) -> None:
    tensors[max(tensors)] = torch.zeros(3, 5, 7)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("change", [rename, drop, add, reshape])
def test_a_network_has_the_weights_of_its_file_or_is_refused(
    model: Path, part: str, change: Callable[[dict[str, torch.Tensor]], None]
) -> None:
    file = weights_of(model, part)
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, {"format": "pt"})
    for load in (lambda: build_pipeline(model=str(model)), lambda: Pipeline.from_pretrained(model)):
        with pytest.raises(CheckpointError, match=part) as error:
            load()
        assert "\n" not in str(error.value)


def test_numbers_that_old_versions_stored_are_no_weights(model: Path) -> None:
    file = weights_of(model, "text_encoder")
    tensors = load_file(file)
    save_file(tensors | {"text_model.embeddings.position_ids": torch.arange(77)[None]}, file, {"format": "pt"})
    build_pipeline(model=str(model))


@pytest.mark.parametrize("part", ["text_encoder", "vae"])
def test_pickled_weights_are_read_in_no_part(model: Path, part: str) -> None:
    file = weights_of(model, part)
    name = {"text_encoder": "pytorch_model.bin", "vae": "diffusion_pytorch_model.bin"}[part]
    torch.save(load_file(file), file.with_name(name))
    file.unlink()
    for load in (lambda: build_pipeline(model=str(model)), lambda: Pipeline.from_pretrained(model)):
        with pytest.raises(CheckpointError, match=f"{part} holds no safetensors file: {name} is pickled"):
            load()


@pytest.mark.parametrize(
    ("part", "changes", "message"),
    [
        ("unet", {"layers_per_block": 2000}, "layers_per_block"),
        ("unet", {"block_out_channels": [10**9, 64]}, "block_out_channels"),
        ("controlnet", {"block_out_channels": "wide"}, "block_out_channels"),
        ("vae", {"latent_channels": -4}, "latent_channels"),
        ("text_encoder", {"num_hidden_layers": 10**6}, "num_hidden_layers"),
        ("scheduler", {"num_train_timesteps": 10**9}, "num_train_timesteps"),
        ("text_encoder", {"_attn_implementation": "owner/kernel"}, "names code that would be downloaded"),
        ("scheduler", {"_class_name": "DiffusionPipeline"}, "names no scheduler of diffusers"),
    ],
)
def test_what_a_config_asks_for_is_checked_before_it_is_made(
    model: Path, part: str, changes: dict[str, Any], message: str
) -> None:
    change_config(model, part, **changes)
    with pytest.raises(CheckpointError, match=message) as error:
        build_pipeline(model=str(model))
    assert "\n" not in str(error.value)


def test_an_index_names_files_of_its_folder_alone(model: Path) -> None:
    file = weights_of(model, "vae")
    shutil.copy(file, model / "elsewhere.safetensors")
    index = {"weight_map": dict.fromkeys(load_file(file), "../elsewhere.safetensors")}
    (model / "vae" / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    file.unlink()
    with pytest.raises(CheckpointError, match="names a file outside of its folder"):
        build_pipeline(model=str(model))


@pytest.mark.parametrize("entry", [["os", "system"], ["subprocess", "Popen"], "vae", None, ["diffusers", "a.b"]])
def test_a_model_names_networks_of_known_libraries_alone(model: Path, entry: object) -> None:
    file = model / "model_index.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"vae": entry}))
    with pytest.raises(CheckpointError, match="names no network of diffusers"):
        Pipeline.from_pretrained(model)


def test_authors_can_check_what_they_have_loaded() -> None:
    check_loaded({"missing_keys": [], "unexpected_keys": None}, "here")
    with pytest.raises(CheckpointError, match=r"here does not hold .*: a is missing \(and 2 more tensors\)"):
        check_loaded({"missing_keys": ["a"], "unexpected_keys": ["b"], "mismatched_keys": [("c", 1, 2)]}, "here")
