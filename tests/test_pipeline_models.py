"""Models as the pipeline loads, saves, places and changes them."""

from __future__ import annotations

import copy
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file

from tests.support import tiny
from tests.support.tiny import PHOTO, alike, same
from xpsr_sdk import (
    BrokenPlugin,
    CheckpointError,
    ConfigError,
    Pipeline,
    Registry,
    UnknownComponent,
    build_pipeline,
    default_registry,
)
from xpsr_sdk.builtin.residual import ResidualBackbone
from xpsr_sdk.data.images import resize, to_image, to_tensor
from xpsr_sdk.models.checkpoints import read_checkpoint, write_checkpoint
from xpsr_sdk.models.controlnet import XPSRControlNet


def test_a_pipeline_is_saved_and_loaded_like_any_of_diffusers(pipe: Pipeline, tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path / "saved")
    expected = pipe(PHOTO, seed=0).image
    assert alike(Pipeline.from_pretrained(tmp_path / "saved")(PHOTO, seed=0).image, expected)
    assert same(build_pipeline(model=str(tmp_path / "saved"), device="cpu")(PHOTO, seed=0).image, expected)


def test_a_base_with_a_checkpoint_is_saved_as_a_whole_model(sd_pipe: Pipeline, tmp_path: Path) -> None:
    sd_pipe.save_pretrained(tmp_path / "saved")
    options: dict[str, Any] = {"seed": 0, "num_inference_steps": 2}
    expected = sd_pipe(PHOTO, **options).image
    assert alike(Pipeline.from_pretrained(tmp_path / "saved")(PHOTO, **options).image, expected)
    again = build_pipeline(model=str(tmp_path / "saved"), device="cpu", dtype="float32")
    assert same(again(PHOTO, **options).image, expected)


@pytest.mark.parametrize("backbone", [{"name": "residual"}, ResidualBackbone()])
def test_a_backbone_with_options_or_as_an_object_is_saved_too(
    tiny_model: Path, pipe: Pipeline, tmp_path: Path, backbone: Any
) -> None:
    chosen = build_pipeline(model=str(tiny_model), backbone=backbone, device="cpu")
    chosen.save_pretrained(tmp_path / "saved")
    saved = json.loads((tmp_path / "saved" / "model_index.json").read_text())["backbone"]
    assert saved == (backbone if isinstance(backbone, dict) else "residual")
    expected = pipe(PHOTO, seed=0).image
    assert alike(Pipeline.from_pretrained(tmp_path / "saved")(PHOTO, seed=0).image, expected)
    assert same(build_pipeline(model=str(tmp_path / "saved"), device="cpu")(PHOTO, seed=0).image, expected)


def test_offloading_brings_the_controlnet_in_before_it_embeds(tiny_model: Path, pipe: Pipeline) -> None:
    offloaded = build_pipeline(model=str(tiny_model), device="cpu")
    offloaded.enable_model_cpu_offload(device="cpu")  # to another device, where there is one
    hook = offloaded.controlnet._hf_hook
    called_with: list[int] = []
    before = hook.pre_forward

    def record(module: Any, *args: Any, **kwargs: Any) -> Any:
        called_with.append(len(args))
        return before(module, *args, **kwargs)

    hook.pre_forward = record
    assert same(offloaded(PHOTO, seed=0).image, pipe(PHOTO, seed=0).image)
    assert called_with[0] == 0  # for embed_condition, before any forward pass
    assert same(offloaded(PHOTO, seed=0).image, pipe(PHOTO, seed=0).image)


@pytest.mark.parametrize("offload", ["model", "group"])
def test_offloaded_weights_give_the_same_image(sd_pipe: Pipeline, offload: str) -> None:
    offloaded = build_pipeline(tiny.sd_config(), execution={"offload": offload})
    options: dict[str, Any] = {"seed": 0, "num_inference_steps": 2}
    expected = sd_pipe(PHOTO, **options).image
    for _ in range(2):
        assert same(offloaded(PHOTO, **options).image, expected)


def test_a_lora_file_changes_the_image(sd_pipe: Pipeline, tmp_path: Path) -> None:
    pipe = build_pipeline(tiny.sd_config())
    options: dict[str, Any] = {"seed": 0, "num_inference_steps": 2, "guidance_scale": 1, "prompt": "a cat"}
    before = pipe(PHOTO, **options).image
    lora = LoraConfig(r=2, lora_alpha=2, init_lora_weights=False, target_modules=r".*\.attentions\..*attn2\.to_[qv]")
    pipe.unet.add_adapter(lora)
    layers = get_peft_model_state_dict(pipe.unet)
    assert layers
    Pipeline.save_lora_weights(tmp_path, unet_lora_layers=layers)
    with_lora = pipe(PHOTO, **options).image

    fresh = build_pipeline(tiny.sd_config())
    fresh.load_lora_weights(tmp_path)
    assert same(fresh(PHOTO, **options).image, with_lora)
    assert not same(before, with_lora)
    fresh.unload_lora_weights()
    assert same(fresh(PHOTO, **options).image, before)


def as_kohya_names(layers: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Layers of a LoRA named as kohya's trainers do, which most files on the web come from, with an alpha each."""
    names = {name: re.sub(r"\.lora_[AB]\.weight$", "", name).replace(".", "_") for name in layers}
    found = {f"lora_unet_{name}.alpha": torch.tensor(2.0) for name in names.values()}
    for name, weight in layers.items():
        found[f"lora_unet_{names[name]}.lora_{'down' if '.lora_A.' in name else 'up'}.weight"] = weight.contiguous()
    return found


@pytest.mark.parametrize("names", ["diffusers", "kohya"])
def test_a_lora_file_of_the_base_model_loads(tmp_path: Path, names: str) -> None:
    base = UNet2DConditionModel.from_pretrained(tiny.SD_TINY / "base" / "unet")
    base.add_adapter(LoraConfig(r=2, lora_alpha=2, init_lora_weights=False, target_modules=["to_q", "to_v"]))
    layers = get_peft_model_state_dict(base)
    if names == "kohya":
        save_file(as_kohya_names(layers), tmp_path / "pytorch_lora_weights.safetensors")
    else:
        layers = convert_state_dict_to_diffusers(layers)
        StableDiffusionPipeline.save_lora_weights(tmp_path, unet_lora_layers=layers)
    pipe = build_pipeline(tiny.sd_config())
    options: dict[str, Any] = {"seed": 0, "num_inference_steps": 2, "guidance_scale": 1, "prompt": "a cat"}
    before = pipe(PHOTO, **options).image
    pipe.load_lora_weights(tmp_path, adapter_name="style")
    assert pipe.get_active_adapters() == ["style"]
    assert not same(pipe(PHOTO, **options).image, before)
    pipe.set_adapters("style", 0.0)
    assert alike(pipe(PHOTO, **options).image, before)


@pytest.mark.parametrize("how", ["enable_model_cpu_offload", "enable_group_offload"])
def test_offloading_changes_no_bit(how: str) -> None:
    options: dict[str, Any] = {"seed": 0, "num_inference_steps": 2}
    expected = build_pipeline(tiny.sd_config())(PHOTO, **options).image
    pipe = build_pipeline(tiny.sd_config())
    cpu = torch.device("cpu")  # there may be no other
    if how == "enable_group_offload":
        pipe.enable_group_offload(onload_device=cpu, offload_type="leaf_level")
    else:
        pipe.enable_model_cpu_offload(device=cpu)
    assert same(pipe(PHOTO, **options).image, expected)


def test_a_callback_of_diffusers_kind_sees_and_changes_the_latents(pipe: Pipeline) -> None:
    seen: list[tuple[int, int]] = []

    def zero_at_the_end(asked: Any, step: int, timestep: int, kwargs: dict[str, Any]) -> dict[str, Any]:
        assert asked is pipe
        seen.append((step, timestep))
        return {"latents": torch.zeros_like(kwargs["latents"])} if step == 1 else {}

    options: dict[str, Any] = {"seed": 0, "num_inference_steps": 2, "fidelity": 0}
    result = pipe(PHOTO, callback_on_step_end=zero_at_the_end, **options)
    assert [step for step, _ in seen] == [0, 1]
    bicubic = resize(to_tensor(PHOTO), 80, 68)
    assert np.abs(np.asarray(result.image, int) - np.asarray(to_image(bicubic), int)).max() <= 1
    assert same(pipe(PHOTO, callback_on_step_end=lambda *_: None, **options).image, pipe(PHOTO, **options).image)
    with pytest.raises(ConfigError, match=r"returned latents of shape \(1, 2\), not \(1, "):
        pipe(PHOTO, callback_on_step_end=lambda *_: {"latents": torch.zeros(1, 2)}, **options)
    with pytest.raises(ConfigError, match="callback or callback_on_step_end, not both"):
        pipe(PHOTO, callback=lambda *_: None, callback_on_step_end=lambda *_: None)


def test_a_model_with_the_fusion_of_a_plugin_is_saved_and_loaded(tiny_model: Path, tmp_path: Path) -> None:
    base = UNet2DConditionModel(**tiny.UNET)
    model = tmp_path / "gated"
    shutil.copytree(tiny_model, model)
    torch.manual_seed(0)
    with default_registry().in_force():
        controlnet = XPSRControlNet.from_unet(base, tiny.CONDITIONING_WIDTHS, "gated")
    tiny.shake(controlnet)
    shutil.rmtree(model / "controlnet")
    controlnet.save_pretrained(model / "controlnet")
    pipe = build_pipeline(model=str(model), device="cpu")
    expected = pipe(PHOTO, seed=0).image
    pipe.save_pretrained(tmp_path / "saved")
    assert alike(Pipeline.from_pretrained(tmp_path / "saved")(PHOTO, seed=0).image, expected)
    assert same(build_pipeline(model=str(tmp_path / "saved"), device="cpu")(PHOTO, seed=0).image, expected)


def test_a_base_alone_asks_for_a_checkpoint() -> None:
    with pytest.raises(
        CheckpointError, match=r"it has no controlnet/. Name an XPSR checkpoint for it \(--checkpoint\)"
    ):
        build_pipeline(model=str(tiny.SD_TINY / "base"))


def test_a_checkpoint_for_another_base_is_refused(tiny_model: Path) -> None:
    with pytest.raises(CheckpointError, match="does not fit"):
        build_pipeline(model=str(tiny_model), checkpoint=tiny.SD_TINY / "xpsr")


@pytest.mark.parametrize("part", ["vae", "text_encoder", "tokenizer", "scheduler", "unet", "controlnet"])
def test_a_missing_part_is_a_clear_error(tiny_model: Path, tmp_path: Path, part: str) -> None:
    shutil.copytree(tiny_model, tmp_path / "model")
    shutil.rmtree(tmp_path / "model" / part)
    with pytest.raises(CheckpointError, match="model"):
        build_pipeline(model=str(tmp_path / "model"))


@pytest.mark.parametrize("content", ["", "{}", '{"defaults": {"fidelty": 1}}', '{"backbone": "residul"}'])
def test_a_wrong_index_is_a_clear_error(tiny_model: Path, tmp_path: Path, content: str) -> None:
    shutil.copytree(tiny_model, tmp_path / "model")
    (tmp_path / "model" / "model_index.json").write_text(content)
    with pytest.raises((CheckpointError, ConfigError, UnknownComponent)):
        build_pipeline(model=str(tmp_path / "model"))


def test_a_broken_backbone_is_named(tiny_model: Path) -> None:
    class Broken:
        __name__ = "broken"

    with pytest.raises(BrokenPlugin, match="backbone 'broken'"):
        build_pipeline(model=str(tiny_model), backbone="broken", registry=Registry([Broken()]))


def test_a_backbone_can_be_handed_over_as_an_object(tiny_model: Path, pipe: Pipeline) -> None:
    handed_over = build_pipeline(model=str(tiny_model), backbone=ResidualBackbone(), device="cpu")
    assert handed_over(PHOTO, seed=3).image.tobytes() == pipe(PHOTO, seed=3).image.tobytes()


def test_networks_that_are_assigned_are_computed_with(tiny_model: Path) -> None:
    options: dict[str, Any] = {"seed": 0, "num_inference_steps": 2, "prompt": "a cat"}
    for part in ("vae", "text_encoder"):
        pipe = build_pipeline(tiny.sd_config())
        before = pipe(PHOTO, **options).image
        network = copy.deepcopy(getattr(pipe, part))
        with torch.no_grad():
            tiny.shake(network)
        setattr(pipe, part, network)
        assert getattr(pipe.backbone, part) is network
        assert not same(pipe(PHOTO, **options).image, before)


def test_a_scheduler_that_is_assigned_is_sampled_with() -> None:
    options: dict[str, Any] = {"seed": 0, "num_inference_steps": 3, "prompt": "a cat", "fidelity": 0.2}
    pipe = build_pipeline(tiny.sd_config())
    before = pipe(PHOTO, **options).image
    pipe.scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    after = pipe(PHOTO, **options).image
    assert not same(after, before)
    named = build_pipeline(tiny.sd_config(), sampler={"name": "diffusers", "scheduler": "EulerDiscreteScheduler"})
    assert same(named(PHOTO, **options).image, after)
    with pytest.raises(CheckpointError, match=r"FlowMatchEulerDiscreteScheduler .* flow matching are not supported"):
        pipe.scheduler = FlowMatchEulerDiscreteScheduler()
    assert same(pipe(PHOTO, **options).image, after)


def test_a_model_of_flow_matching_is_refused_when_it_is_built(tmp_path: Path) -> None:
    shutil.copytree(tiny.SD_TINY / "base", tmp_path / "base")
    file = tmp_path / "base" / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps({"_class_name": "FlowMatchEulerDiscreteScheduler"}))
    index = json.loads((tmp_path / "base" / "model_index.json").read_text())
    index["scheduler"] = ["diffusers", "FlowMatchEulerDiscreteScheduler"]
    (tmp_path / "base" / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="flow matching"):
        build_pipeline(model=str(tmp_path / "base"), checkpoint=tiny.SD_TINY / "xpsr", device="cpu")


def test_a_model_with_a_lora_is_saved_fused_or_without_it(tmp_path: Path) -> None:
    options: dict[str, Any] = {"seed": 0, "num_inference_steps": 2, "prompt": "a cat"}
    pipe = build_pipeline(tiny.sd_config())
    plain = pipe(PHOTO, **options).image
    torch.manual_seed(0)
    pipe.unet.add_adapter(LoraConfig(r=2, lora_alpha=2, init_lora_weights=False, target_modules=["to_q", "to_v"]))
    with_lora = pipe(PHOTO, **options).image
    with pytest.raises(ConfigError, match="while a LoRA is loaded \\(default\\)"):
        pipe.save_pretrained(tmp_path / "refused")
    assert not (tmp_path / "refused").exists()
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    pipe.save_pretrained(tmp_path / "fused")
    fused = build_pipeline(model=str(tmp_path / "fused"), device="cpu", dtype="float32")(PHOTO, **options).image
    fused, with_lora, plain = (np.asarray(image, dtype=int) for image in (fused, with_lora, plain))
    assert np.abs(fused - with_lora).max() <= 3  # sums in another order
    assert np.abs(fused - plain).max() > 30


def test_a_model_with_the_part_of_a_plugin_says_what_to_install(tiny_model: Path, tmp_path: Path) -> None:
    with default_registry().in_force():
        controlnet = XPSRControlNet.from_unet(UNet2DConditionModel(**tiny.UNET), tiny.CONDITIONING_WIDTHS, "gated")
        unet, _ = read_checkpoint(tiny_model)
    write_checkpoint(tmp_path / "gated", unet, controlnet)
    assert json.loads((tmp_path / "gated" / "plugins.json").read_text()) == {"xpsr-gated-fusion": "0.1.0"}
    pipe = build_pipeline(model=str(tiny_model), checkpoint=tmp_path / "gated", device="cpu")
    pipe.save_pretrained(tmp_path / "saved")
    needed = (
        r"No plug-in offers the fusion attention 'gated'.* made with xpsr-gated-fusion 0.1.0: pip install xpsr-gated"
    )
    for choice in ({"model": str(tmp_path / "saved")}, {"model": str(tiny_model), "checkpoint": tmp_path / "gated"}):
        with pytest.raises(UnknownComponent, match=needed):
            build_pipeline(**choice, device="cpu", registry=Registry([]))
    with pytest.raises(UnknownComponent, match=needed):
        Pipeline.from_pretrained(tmp_path / "saved", registry=Registry([]))
    (tmp_path / "saved" / "plugins.json").write_text('{"x; rm -rf /": "1", "y": 2}')
    with pytest.raises(UnknownComponent) as caught:
        build_pipeline(model=str(tmp_path / "saved"), device="cpu", registry=Registry([]))
    assert "pip install" not in str(caught.value)


def test_a_model_of_built_in_parts_needs_no_plugins(pipe: Pipeline, tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved" / "plugins.json").exists()
