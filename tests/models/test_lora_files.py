"""LoRAs in the styles that people have are merged into the weights, exactly, or refused in a sentence."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import save_file
from torch import Tensor

from tests.support import original_layout, tiny
from xpsr_sdk import CheckpointError, ConfigError, Pipeline, PipelineConfig, build_pipeline
from xpsr_sdk.config import read_toml
from xpsr_sdk.models.lora_files import find_lora, merge_loras, parse_lora

RANK, ALPHA = 4, 2.0
Tensors = dict[str, Tensor]


def layers(pipeline: Pipeline) -> Iterator[tuple[str, str, Any]]:
    """Some layers of each network: the part, the name and the module."""
    for part in ("unet", "text_encoder"):
        for name, module in getattr(pipeline, part).named_modules():
            attends = name.endswith(("attn1.to_q", "attn2.to_out.0", "ff.net.0.proj", "self_attn.v_proj", "proj_in"))
            if hasattr(module, "weight") and attends and "fusions" not in name and "pixel" not in name:
                yield part, name, module


def lora(pipeline: Pipeline) -> dict[tuple[str, str], tuple[Tensor, Tensor]]:
    """The factors of each layer: first R I, or R I 1 1; then O R."""
    torch.manual_seed(1)
    return {
        (part, name): (
            torch.randn(RANK, *module.weight.shape[1:]) * 0.2,
            torch.randn(module.weight.shape[0], RANK, *[1] * (module.weight.ndim - 2)) * 0.2,
        )
        for part, name, module in layers(pipeline)
    }


def kohya(factors: dict[tuple[str, str], tuple[Tensor, Tensor]]) -> Tensors:
    found: Tensors = {}
    for (part, name), (down, up) in factors.items():
        name = name if part == "unet" else f"text_model.{name.removeprefix('text_model.')}"
        key = f"lora_{'unet' if part == 'unet' else 'te'}_{name.replace('.', '_')}"
        found |= {f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up, f"{key}.alpha": torch.tensor(ALPHA)}
    return found


def peft(factors: dict[tuple[str, str], tuple[Tensor, Tensor]]) -> Tensors:
    return {
        f"{part}.{name}.lora_{letter}.weight": tensor
        for (part, name), each in factors.items()
        for letter, tensor in zip("AB", each, strict=True)
    }


def peft_with_alpha(factors: dict[tuple[str, str], tuple[Tensor, Tensor]]) -> Tensors:
    return peft(factors) | {f"{part}.{name}.alpha": torch.tensor(ALPHA) for part, name in factors}


@pytest.fixture(scope="module")
def plain() -> Pipeline:
    return build_pipeline(tiny.sd_config())


@pytest.fixture
def write(plain: Pipeline, tmp_path: Path) -> Callable[..., str]:
    """Writes a LoRA for the tiny model, in a style, with changes. Returns the path."""

    def written(style: Callable[..., Tensors], change: Callable[[Tensors], Tensors] = dict, name: str = "it") -> str:
        tensors = change(style(lora(plain)))
        save_file({key: x.contiguous() for key, x in tensors.items()}, tmp_path / f"{name}.safetensors")
        return str(tmp_path / f"{name}.safetensors")

    return written


def merged(plain: Pipeline, scale: float) -> dict[tuple[str, str], Tensor]:
    """The weights that a LoRA gives."""
    factors = lora(plain)
    return {
        (part, name): module.weight
        + scale * (factors[part, name][1].flatten(1) @ factors[part, name][0].flatten(1)).reshape(module.weight.shape)
        for part, name, module in layers(plain)
    }


@pytest.mark.parametrize(("style", "scale"), [(kohya, ALPHA / RANK), (peft, 1.0), (peft_with_alpha, ALPHA / RANK)])
def test_a_lora_is_merged_with_its_weight(
    plain: Pipeline, write: Callable[..., str], style: Callable[..., Tensors], scale: float
) -> None:
    pipeline = build_pipeline(tiny.sd_config(), lora=[f"{write(style)}:0.5"])
    expected = merged(plain, scale * 0.5)
    assert {part for part, _ in expected} == {"unet", "text_encoder"}
    for part, name, module in layers(pipeline):
        torch.testing.assert_close(module.weight, expected[part, name])
    assert not getattr(pipeline.unet, "peft_config", None)


def old_diffusers(factors: dict[tuple[str, str], tuple[Tensor, Tensor]]) -> Tensors:
    """As diffusers stored the attention processors of a U-Net before it used peft."""
    found: Tensors = {}
    for (part, name), (down, up) in factors.items():
        if part == "unet" and ".attn" in name:
            site, _, layer = name.removesuffix(".0").rpartition(".")
            key = f"unet.{site}.processor.{layer}_lora"
            found |= {f"{key}.down.weight": down, f"{key}.up.weight": up}
    return found


@pytest.mark.parametrize("style", [kohya, old_diffusers])
def test_merging_gives_what_diffusers_gives(
    plain: Pipeline, write: Callable[..., str], style: Callable[..., Tensors]
) -> None:
    file = write(
        style, lambda tensors: {name: x for name, x in tensors.items() if not name.startswith(("lora_te", "text"))}
    )
    expected = build_pipeline(tiny.sd_config())
    expected.load_lora_weights(file)
    expected.fuse_lora()
    expected.unload_lora_weights()
    found = build_pipeline(tiny.sd_config(), lora=file)
    before = plain.unet.state_dict()
    changed = [name for name, tensor in found.unet.state_dict().items() if not torch.equal(tensor, before[name])]
    assert len(changed) > 10
    for name in changed:
        torch.testing.assert_close(found.unet.state_dict()[name], expected.unet.state_dict()[name])


def test_two_loras_add_up_and_the_model_can_be_saved(
    plain: Pipeline, write: Callable[..., str], tmp_path: Path
) -> None:
    files = [f"{write(kohya)}:1", f"{write(peft, name='b')}:-0.5"]  # which cancel each other
    pipeline = build_pipeline(tiny.sd_config(), lora=files)
    for part, name, module in layers(pipeline):
        torch.testing.assert_close(module.weight, merged(plain, 0)[part, name], rtol=1e-4, atol=1e-5)
    pipeline = build_pipeline(tiny.sd_config(), lora=files[0])
    pipeline.save_pretrained(tmp_path / "saved")
    again = build_pipeline(model=tmp_path / "saved", dtype="float32", device="cpu")
    pictures = [pipe(tiny.PHOTO, seed=1, num_inference_steps=1, prompt="a").image for pipe in (pipeline, again)]
    assert tiny.alike(*pictures)


def test_a_lora_can_be_named_in_a_file_of_settings(write: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "it.toml").write_text(f'lora = ["{write(kohya)}:0.5"]\n')
    assert read_toml(PipelineConfig, tmp_path / "it.toml").lora == (f"{tmp_path / 'it.safetensors'}:0.5",)


def test_layers_that_the_model_lacks_are_listed(write: Callable[..., str]) -> None:
    def more(tensors: Tensors) -> Tensors:
        return tensors | {
            "lora_unet_down_blocks_9_attentions_0_proj_in.lora_down.weight": torch.zeros(RANK, 8),
            "lora_unet_down_blocks_9_attentions_0_proj_in.lora_up.weight": torch.zeros(8, RANK),
            "bundle_emb.x": torch.zeros(1),
        }

    with pytest.warns(UserWarning, match=r"the model lacks 2 layers of this LoRA: bundle_emb.x, unet.down"):
        build_pipeline(tiny.sd_config(), lora=write(kohya, more))


def of_another_model(tensors: Tensors) -> Tensors:
    return {name: torch.zeros(RANK, 77) if name.endswith("down.weight") else x for name, x in tensors.items()}


@pytest.mark.parametrize(("change", "message"), [
    (of_another_model, r"is a LoRA for another model: at \w+\..* it makes \d+ features of 77, and this"),
    (lambda _: {f"lora_unet_foreign.lora_{x}.weight": torch.zeros(4, 4) for x in ("down", "up")}, "none of its layers"),
    (lambda x: {name: each.flatten() for name, each in x.items()}, r"is damaged: the factors of \S+ must be matrices"),
    (lambda x: x | {"lora_unet_a.hada_w1_a": torch.zeros(4, 4)}, "is a LoRA of the form LoHa, which cannot be read"),
    (lambda x: x | {"lora_unet_a.dora_scale": torch.zeros(4, 4)}, "is a LoRA of the form DoRA, which"),
    (lambda _: {"first_stage_model.a": torch.zeros(4, 4)}, r"is an autoencoder \(VAE\) alone, not a LoRA: name it as"),
])  # fmt: skip
def test_another_file_is_refused(plain: Pipeline, write: Callable[..., str], change: Any, message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as error:
        merge_loras(plain, [write(kohya, change)])
    assert "\n" not in str(error.value)


def test_what_a_lora_may_be_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse_lora("a.safetensors") == ("a.safetensors", 1.0)
    assert parse_lora("a.safetensors:-.5") == ("a.safetensors", -0.5)
    assert parse_lora(r"C:\a.safetensors") == (r"C:\a.safetensors", 1.0)
    for text in (":1", "a.safetensors:nan", "a.safetensors:strong"):
        with pytest.raises(ConfigError, match="write FILE or FILE:WEIGHT"):
            parse_lora(text)
    with pytest.raises(ConfigError, match=r"lora: it.safetensors does not exist"):
        find_lora("it.safetensors")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "pytorch_lora_weights.safetensors").touch()
    assert find_lora("folder").name == "pytorch_lora_weights.safetensors"


def test_a_lora_that_diffusers_saved_keeps_its_scale(plain: Pipeline, tmp_path: Path) -> None:
    pipeline = build_pipeline(tiny.sd_config())
    pipeline.unet.add_adapter(LoraConfig(r=2, lora_alpha=6, init_lora_weights=False, target_modules=["attn1.to_q"]))
    pipeline.unet.save_lora_adapter(tmp_path)
    found = build_pipeline(tiny.sd_config(), lora=str(tmp_path))
    pipeline.fuse_lora(components=["unet"])
    name = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    weight = found.unet.get_submodule(name).weight
    torch.testing.assert_close(weight, pipeline.unet.get_submodule(name).base_layer.weight)
    assert not torch.equal(weight, plain.unet.get_submodule(name).weight)


def test_a_lora_for_sdxl_changes_all_its_networks(tmp_path: Path) -> None:
    folder, checkpoint = original_layout.write_whole(tmp_path, "xl")
    settings: dict[str, Any] = {"model": folder, "checkpoint": checkpoint, "device": "cpu", "dtype": "float32"}
    before = build_pipeline(**settings)
    names = {  # as kohya-ss names them, and as diffusers does
        "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k": (
            "unet",
            "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k",
        ),
        "lora_unet_input_blocks_4_0_in_layers_2": ("unet", "down_blocks.1.resnets.0.conv1"),
        "lora_te1_text_model_encoder_layers_0_self_attn_q_proj": ("text_encoder", "layers.0.self_attn.q_proj"),
        "lora_te2_text_model_encoder_layers_1_mlp_fc1": ("text_encoder_2", "layers.1.mlp.fc1"),
    }

    def weight_in(pipeline: Pipeline, part: str, name: str) -> Tensor:
        state = getattr(pipeline, part).state_dict()
        return next(x for key, x in state.items() if key.endswith(f"{name}.weight"))

    tensors: Tensors = {}
    for key, (part, name) in names.items():
        shape = weight_in(before, part, name).shape
        tensors[f"{key}.lora_down.weight"] = torch.ones(1, *shape[1:])
        tensors[f"{key}.lora_up.weight"] = torch.ones(shape[0], 1, *[1] * (len(shape) - 2))
    save_file(tensors, tmp_path / "it.safetensors")
    after = build_pipeline(**settings, lora=tmp_path / "it.safetensors")
    for part, name in names.values():
        torch.testing.assert_close(weight_in(after, part, name), weight_in(before, part, name) + 1)
