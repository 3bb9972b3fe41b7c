"""A Stable Diffusion in one file is the same model as its folder, and any other file is told by what is in it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from transformers import CLIPTokenizer

from tests.support import original_layout, tiny
from xpsr_sdk import CheckpointError, Registry, build_pipeline
from xpsr_sdk.files.leftovers import remove_leftovers_once
from xpsr_sdk.models.checkpoints import read_json
from xpsr_sdk.models.find_model import find_checkpoint, find_model
from xpsr_sdk.models.pretrained import class_in_index, load_network
from xpsr_sdk.models.single_file import copy_part
from xpsr_sdk.models.single_file_configs import configs_of, family_of
from xpsr_sdk.training.config import ModelSection
from xpsr_sdk.training.models import build_for_training

SIZES = (
    "block_out_channels",
    "layers_per_block",
    "down_block_types",
    "up_block_types",
    "cross_attention_dim",
    "attention_head_dim",
    "use_linear_projection",
    "upcast_attention",
    "addition_embed_type",
    "addition_time_embed_dim",
    "projection_class_embeddings_input_dim",
    "transformer_layers_per_block",
)
"""What says how a U-Net computes."""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny SD 1.x as a folder and as a file, with a checkpoint for it."""
    folder = tmp_path_factory.mktemp("models")
    original_layout.write_whole(folder, "sd1")
    return folder


@pytest.fixture
def file(models: Path, tmp_path: Path) -> Path:
    """The file, to be changed."""
    return shutil.copy(models / "file.safetensors", tmp_path / "mine.safetensors")


@pytest.mark.parametrize("family", ["sd1", "sd2", "xl"])
def test_a_file_holds_the_networks_of_its_folder(tmp_path: Path, family: str) -> None:
    networks = original_layout.tiny_networks(family)
    said = {"modelspec.architecture": "stable-diffusion-v2-768-v"} if family == "sd2" else {}
    original_layout.write_file(tmp_path / "it.safetensors", networks, **said)
    folder = find_model(tmp_path / "it.safetensors")
    index = read_json(folder / "model_index.json")
    for name, network in networks.items():
        found = load_network(class_in_index(index[name], "index"), folder / name, torch.float32)
        assert type(found) is type(network)
        expected, tensors = network.state_dict(), found.state_dict()
        assert expected.keys() == tensors.keys()
        assert all(torch.equal(expected[each], tensors[each]) for each in expected)
        if name == "unet":
            of_both = [{size: net.config[size] for size in SIZES} for net in (network, found)]
            assert json.dumps(of_both[0]) == json.dumps(of_both[1])
        if name == "vae":
            assert found.config.scaling_factor == network.config.scaling_factor
        if name.startswith("text"):
            assert found.config.hidden_act == network.config.hidden_act
    predicts = read_json(folder / "scheduler" / "scheduler_config.json")["prediction_type"]
    assert predicts == ("v_prediction" if family == "sd2" else "epsilon")


@pytest.mark.parametrize("family", ["sd1", "sd2", "xl"])
def test_the_configs_are_those_of_the_published_models(family: str) -> None:
    """In full size, on the meta device."""
    common = {"in_channels": 4, "out_channels": 4, "layers_per_block": 2}
    three = {"block_out_channels": [320, 640, 1280], "transformer_layers_per_block": [1, 2, 10]}
    four = {"block_out_channels": [320, 640, 1280, 1280]}
    unet = {
        "sd1": four | {"cross_attention_dim": 768, "attention_head_dim": 8},
        "sd2": four | {"cross_attention_dim": 1024, "attention_head_dim": [5, 10, 20, 20]},
        "xl": three
        | {"cross_attention_dim": 2048, "attention_head_dim": [5, 10, 20], "addition_embed_type": "text_time"}
        | {"addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816},
    }[family] | common
    clip_l = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
    clip_h = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
    clip_g = {"hidden_size": 1280, "num_hidden_layers": 32, "num_attention_heads": 20, "intermediate_size": 5120}
    networks = original_layout.full_size_networks(
        family,
        unet | {"use_linear_projection": family != "sd1"},
        {"text_encoder": clip_h if family == "sd2" else clip_l}
        | ({"text_encoder_2": clip_g} if family == "xl" else {}),
    )
    shapes = {name: tuple(tensor.shape) for name, tensor in original_layout.original_tensors(networks).items()}
    assert family_of(shapes, Path("it")) == family
    found = configs_of(shapes, family_of(shapes, Path("it")), {}, Path("it"))
    assert {name: found["unet"].get(name) for name in unet} == unet
    assert (
        found["text_encoder"] | (clip_h | {"num_hidden_layers": 23} if family == "sd2" else clip_l)
        == (
            found["text_encoder"]  # of the layers of SD 2.x, the last one is not used
        )
    )
    if family == "xl":
        assert found["text_encoder_2"] | clip_g | {"projection_dim": 1280} == found["text_encoder_2"]
    assert found["vae"]["block_out_channels"] == [128, 256, 512, 512]
    assert found["vae"]["layers_per_block"] == 2


def test_the_tokenizer_of_a_file_is_that_of_clip(models: Path) -> None:
    tokenizer = CLIPTokenizer.from_pretrained(find_model(models / "file.safetensors") / "tokenizer")
    ids = [49406, 320, 1125, 539, 320, 2368, 49407]  # of openai/clip-vit-large-patch14
    assert tokenizer("a photo of a cat").input_ids == ids
    assert len(tokenizer) == 49408
    assert tokenizer.pad_token_id == 49407


@pytest.mark.parametrize("family", ["sd1", "xl"])
def test_a_file_restores_as_its_folder(tmp_path: Path, family: str) -> None:
    original_layout.write_whole(tmp_path, family)
    pictures = [
        build_pipeline(model=tmp_path / name, checkpoint=tmp_path / "checkpoint", device="cpu", dtype="float32")(
            tiny.PHOTO, seed=1, scale=2, num_inference_steps=2, prompt="a street"
        ).image
        for name in ("folder", "file.safetensors")
    ]
    assert tiny.same(*pictures)


def test_a_file_is_a_base_for_training(models: Path) -> None:
    section = ModelSection(base=str(models / "file.safetensors"), conditioning_widths=(8, 16))
    backbone, unet, _ = build_for_training(section, Registry([]))
    base = load_file(models / "folder" / "unet" / "diffusion_pytorch_model.safetensors")
    assert all(torch.equal(unet.state_dict()[name], base[name]) for name in base)
    assert backbone.scheduler.config.prediction_type == "epsilon"


@pytest.mark.parametrize("form", ["folder", "file.safetensors"])
def test_an_inpainting_model_is_no_base_for_training(tmp_path: Path, form: str) -> None:
    networks = original_layout.tiny_networks("sd1", in_channels=9)
    original_layout.write_folder(tmp_path / "folder", "sd1", networks)
    original_layout.write_file(tmp_path / "file.safetensors", networks)
    with pytest.raises(CheckpointError, match=r"9 channels of the latents, as an inpainting model|is an inpainting mo"):
        build_for_training(ModelSection(base=str(tmp_path / form), conditioning_widths=(8, 16)), Registry([]))


def test_a_part_is_copied_with_its_weights(models: Path, tmp_path: Path) -> None:
    """As into a checkpoint that is a whole model."""
    folder = find_model(models / "file.safetensors")
    for part in ("vae", "text_encoder", "tokenizer"):
        copy_part(folder / part, tmp_path / part)
    for part, name in (("vae", "diffusion_pytorch_model"), ("text_encoder", "model")):
        expected = load_file(models / "folder" / part / f"{name}.safetensors")
        cls = class_in_index(read_json(folder / "model_index.json")[part], "")
        found = load_network(cls, tmp_path / part, torch.float32)
        assert all(torch.equal(found.state_dict()[key], tensor) for key, tensor in expected.items())
    assert (tmp_path / "tokenizer" / "vocab.json").is_file()


def test_what_a_killed_process_made_of_a_file_goes(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    line = "import os, sys; from xpsr_sdk.models.find_model import find_model; find_model(sys.argv[1]); os._exit(0)"
    subprocess.run([sys.executable, "-c", line, str(file)], check=True)
    [left] = tmp_path.glob("xpsr-*")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    remove_leftovers_once.cache_clear()
    assert find_model(str(file)).is_dir()
    assert not left.exists()
    remove_leftovers_once.cache_clear()


def test_a_file_without_an_autoencoder_says_what_to_name(file: Path, models: Path) -> None:
    tensors = load_file(file)
    save_file({name: x for name, x in tensors.items() if not name.startswith("first_stage_model.")}, file)
    with pytest.raises(CheckpointError, match=r"mine.safetensors holds no autoencoder: name one as vae \(--vae\)"):
        build_pipeline(model=str(file), checkpoint=models / "checkpoint", device="cpu")


def test_a_pickled_file_is_read_when_it_is_named(file: Path, models: Path) -> None:
    ckpt = file.with_suffix(".ckpt")
    torch.save({"state_dict": load_file(file), "global_step": 3}, ckpt)
    expected = load_file(models / "folder" / "vae" / "diffusion_pytorch_model.safetensors")
    found = load_network(AutoencoderKL, find_model(str(ckpt)) / "vae", torch.float32).state_dict()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_a_pickled_file_that_runs_code_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "harm",))

    torch.save({"model.diffusion_model.out.2.weight": Evil()}, tmp_path / "evil.ckpt")
    with pytest.raises(CheckpointError, match="holds more than tensors, and pickled code could do anything"):
        find_model(tmp_path / "evil.ckpt")
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(("metadata", "tensor", "expected"), [
    ({}, None, "epsilon"),
    ({"modelspec.prediction_type": "v"}, None, "v_prediction"),
    ({"modelspec.prediction_type": "epsilon"}, "v_pred", "epsilon"),
    ({}, "v_pred", "v_prediction"),
])  # fmt: skip
def test_a_file_says_what_it_predicts(file: Path, metadata: dict[str, str], tensor: str | None, expected: str) -> None:
    more = {tensor: torch.zeros(0)} if tensor else {}
    save_file(load_file(file) | more, file, {"format": "pt", **metadata})
    assert read_json(find_model(file) / "scheduler" / "scheduler_config.json")["prediction_type"] == expected


def test_an_sd_2_that_does_not_say_what_it_predicts_is_told_and_how_to_say_it(tmp_path: Path) -> None:
    def predicted() -> str:
        return str(read_json(find_model(file) / "scheduler" / "scheduler_config.json")["prediction_type"])

    file = tmp_path / "mine.safetensors"
    original_layout.write_file(file, original_layout.tiny_networks("sd2"))
    with pytest.warns(UserWarning, match="does not say what its U-Net predicts. It is taken to predict v") as told:
        assert predicted() == "v_prediction"
    content, place = re.search(r"write (\{.*\}) to (.*\.json)", str(told[0].message)).groups()
    Path(place).parent.mkdir(parents=True)
    Path(place).write_text(content)
    assert predicted() == "epsilon"


# What else a file may be

Tensors = dict[str, torch.Tensor]


def inpainting(tensors: Tensors) -> Tensors:
    name = "model.diffusion_model.input_blocks.0.0.weight"
    return tensors | {name: torch.zeros(32, 9, 3, 3)}


def only(prefix: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {name: x for name, x in tensors.items() if name.startswith(prefix)}


def holds(*names: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {name: torch.zeros(4, 4) for name in names}


@pytest.mark.parametrize(("change", "message"), [
    (inpainting, r"is an inpainting model: its U-Net has 9 input channels, not 4\. Name the model that it was made"),
    (holds("lora_unet_mid_block.lora_down.weight"), r"is a LoRA, not a whole model in one file: name it as lora"),
    (holds("unet.mid_block.to_q.lora_A.weight", "a"), r"is a LoRA, not a whole"),
    (only("first_stage_model."), r"is an autoencoder \(VAE\) alone, not .*: name it as vae"),
    (only("model.diffusion_model."), r"holds a U-Net without its text encoder"),
    (holds("down_blocks.0.resnets.0.conv1.weight", "conv_in.weight"), r"is a U-Net alone, not"),
    (holds("control_model.time_embed.0.weight", "b"), r"is a ControlNet of another method, not"),
    (holds("controlnet_cond_embedding.conv_in.weight", "b"), r"is a ControlNet of another method, not"),
    (holds("emb_params"), r"is an embedding \(textual inversion\), not"),
    (holds("<cat>"), r"is an embedding \(textual inversion\), not"),
    (holds("text_model.embeddings.token_embedding.weight", "b"), r"is a text encoder alone, not"),
    (holds("model.diffusion_model.joint_blocks.0.x.weight", "b"), r"is a diffusion transformer, .* flow matching are"),
    (holds("model.diffusion_model.out.2.weight", "conditioner.embedders.0.model.ln_final.bias"), "is the refiner of"),
    (holds("conv_first.weight", "conv_last.weight"), r"is an upscaler, not"),
    (lambda x: x | {"edm_mean": torch.zeros(4)}, r"is a Playground 2.5, whose noise schedule \(EDM\) is not supported"),
    (holds("some", "thing"), r"is not a whole model .*, nor anything else that is known: it holds 2 tensors, first 's"),
])  # fmt: skip
def test_another_file_is_named_in_a_sentence(file: Path, change: Callable[[Tensors], Tensors], message: str) -> None:
    save_file({name: x.contiguous() for name, x in change(load_file(file)).items()}, file)
    with pytest.raises(CheckpointError, match=message) as error:
        find_model(file)
    assert "\n" not in str(error.value)
    with pytest.raises(CheckpointError, match=r"not a folder with unet/ and controlnet/, as a checkpoint is|is an inp"):
        find_checkpoint(file)


def test_a_folder_that_holds_something_else_is_named(models: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"is no model, but holds files: name one of them \(file.safetensors\)"):
        find_model(models)
    with pytest.raises(CheckpointError, match=r"is an autoencoder .* alone, not the folder of a whole model"):
        find_model(models / "folder" / "vae")
    save_file({"lora_unet_a.lora_up.weight": torch.zeros(1)}, tmp_path / "pytorch_lora_weights.safetensors")
    with pytest.raises(CheckpointError, match=r"is a LoRA, not the folder of a whole model: name it as lora"):
        find_model(str(tmp_path))
    (tmp_path / "run" / "checkpoint-5" / "unet").mkdir(parents=True)
    with pytest.raises(CheckpointError, match=r"run is the folder of a run: .* such as .*checkpoint-5\."):
        find_checkpoint(tmp_path / "run")
    with pytest.raises(CheckpointError, match=r"unet is the folder of one network: name .*, .*checkpoint\."):
        find_checkpoint(models / "checkpoint" / "unet")


@pytest.mark.parametrize("size", [0, 7, 5000, -10])
def test_a_truncated_file_is_damaged(file: Path, size: int) -> None:
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(CheckpointError, match=r"mine.safetensors cannot be read as weights: "):
        find_model(file)


def test_a_file_that_lacks_a_tensor_is_told(file: Path) -> None:
    tensors = load_file(file)
    del tensors["model.diffusion_model.middle_block.1.proj_in.weight"]
    save_file(tensors, file)
    with pytest.raises(CheckpointError, match=r"is incomplete, or no .*: it lacks 'model.diffusion_model.middle_block"):
        find_model(file)


def test_a_folder_beside_a_file_describes_it(tmp_path: Path, models: Path) -> None:
    """Of another size than the published models, as models of the tests are."""
    networks: dict[str, Any] = {}
    for name in ("unet", "vae", "text_encoder"):
        index = read_json(tiny.SD_TINY / "base" / "model_index.json")
        networks[name] = load_network(class_in_index(index[name], ""), tiny.SD_TINY / "base" / name, torch.float32)
    file = tmp_path / "mine.safetensors"
    original_layout.write_file(file, networks)
    with pytest.raises(CheckpointError, match=r"is of another size than the published .*: put a folder mine/ beside"):
        find_model(file)
    shutil.copytree(tiny.SD_TINY / "base", tmp_path / "mine", ignore=shutil.ignore_patterns("*.safetensors"))
    pictures = [
        build_pipeline(tiny.sd_config(), model=name)(tiny.PHOTO, seed=1, num_inference_steps=2, prompt="a").image
        for name in (str(file), str(tiny.SD_TINY / "base"))
    ]
    assert tiny.same(*pictures)
