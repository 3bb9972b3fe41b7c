"""Models and photos that are small enough for tests. All weights are random, and all influence the result."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, EulerDiscreteScheduler, UNet2DConditionModel
from PIL import Image
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from xpsr_sdk.models.checkpoints import write_checkpoint, write_model
from xpsr_sdk.models.controlnet import XPSRControlNet
from xpsr_sdk.models.unet import XPSRUNet
from xpsr_sdk.plugin_system.registry import Registry

NANO = Path(__file__).parents[1] / "presets" / "nano"
"""The model that ships with the SDK, whose tokenizer is used."""
TEXT_WIDTH = 16
CONDITIONING_WIDTHS = (4, 8, 8)  # a stride of 4, like that of the autoencoders below
DEFAULTS = {
    "num_inference_steps": 4,
    "guidance_scale": 1.0,
    "fidelity": 0.5,
    "start": "mean",
    "color": "none",
    "dtype": "float32",
    "sampler": "ddim",
    "positive": "",
    "negative": "",
    "low_negative": "",
}
UNET: dict[str, Any] = {
    "sample_size": 8,
    "in_channels": 48,
    "out_channels": 48,
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": (1, 2),
    "cross_attention_dim": TEXT_WIDTH,
    "norm_num_groups": 4,
}


def write_configs(folder: Path) -> None:
    """Write the configs of a base model with the residual backbone, which training from scratch reads."""
    for part in ("tokenizer", "scheduler"):
        shutil.copytree(NANO / part, folder / part)
    index = json.loads((NANO / "model_index.json").read_text(encoding="utf-8"))
    write_json(folder / "model_index.json", index | {"defaults": DEFAULTS})
    text = json.loads((NANO / "text_encoder" / "config.json").read_text(encoding="utf-8"))
    small = {"hidden_size": TEXT_WIDTH, "intermediate_size": 32, "projection_dim": TEXT_WIDTH, "dtype": "float32"}
    write_json(folder / "text_encoder" / "config.json", text | small)
    write_json(folder / "vae" / "config.json", {"_class_name": "ResidualAutoencoder", "stride": 4})
    UNet2DConditionModel(**UNET).save_config(folder / "unet")


def write_base_model(folder: Path, seed: int = 0) -> None:
    """Write a base model with the residual backbone, to which training adds fresh XPSR parts."""
    write_configs(folder)
    torch.manual_seed(seed)
    _write_text_encoder(folder)
    write_model(_shaken(UNet2DConditionModel(**UNET)), folder / "unet")


def write_whole_model(folder: Path, seed: int = 0) -> None:
    """Write a complete XPSR model with the residual backbone."""
    write_configs(folder)
    torch.manual_seed(seed)
    _write_text_encoder(folder)
    write_networks(folder)


def write_stable_diffusion(folder: Path, seed: int = 0) -> None:
    """Write the parts that the backbone ``stable-diffusion`` reads: tokenizer, text encoder, autoencoder (4 channels,
    stride 4) and noise schedule, of a model that predicts noise."""
    write_configs(folder)
    torch.manual_seed(seed)
    _write_text_encoder(folder)
    shutil.rmtree(folder / "vae")
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(4, 4, 8),
        norm_num_groups=2,
        latent_channels=4,
    )
    vae.save_pretrained(folder / "vae")
    DDIMScheduler.from_pretrained(folder / "scheduler", prediction_type="epsilon").save_pretrained(folder / "scheduler")
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    classes = {"vae": ["diffusers", "AutoencoderKL"], "backbone": "stable-diffusion"}
    write_json(folder / "model_index.json", index | classes | {"defaults": DEFAULTS | {"start": "lr"}})


XL: dict[str, Any] = {
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (8, 8, 16),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 3),
    "attention_head_dim": (1, 2, 4),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 12 + 6 * 8,
    "cross_attention_dim": TEXT_WIDTH + 24,
}
"""Entries of ``UNET`` for a U-Net of SDXL's architecture."""


def write_stable_diffusion_xl(folder: Path, seed: int = 0) -> None:
    """Write a base model with SDXL's architecture: two text encoders, and a U-Net whose levels differ in depth."""
    write_stable_diffusion(folder, seed)
    shutil.copytree(folder / "tokenizer", folder / "tokenizer_2")
    settings = json.loads((folder / "tokenizer" / "tokenizer_config.json").read_text(encoding="utf-8"))
    write_json(folder / "tokenizer_2" / "tokenizer_config.json", settings | {"pad_token": "!"})
    sizes = {"hidden_size": 24, "intermediate_size": 32, "projection_dim": 12, "hidden_act": "gelu"}
    text = CLIPTextConfig.from_pretrained(folder / "text_encoder", **sizes)
    CLIPTextModelWithProjection(text).save_pretrained(folder / "text_encoder_2")
    shutil.rmtree(folder / "scheduler")
    betas: dict[str, Any] = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    EulerDiscreteScheduler(**betas, timestep_spacing="leading", steps_offset=1).save_pretrained(folder / "scheduler")
    shutil.rmtree(folder / "unet")
    write_model(_shaken(UNet2DConditionModel(**{**UNET, **XL})), folder / "unet")
    classes = {"tokenizer": "CLIPTokenizer", "tokenizer_2": "CLIPTokenizer"}
    classes |= {"text_encoder": "CLIPTextModel", "text_encoder_2": "CLIPTextModelWithProjection"}
    index: dict[str, Any] = {name: ["transformers", cls] for name, cls in classes.items()}
    index |= {"vae": ["diffusers", "AutoencoderKL"], "unet": ["diffusers", "UNet2DConditionModel"]}
    index |= {"scheduler": ["diffusers", "EulerDiscreteScheduler"], "_class_name": "StableDiffusionXLPipeline"}
    index |= {"defaults": {"dtype": "float32", "num_inference_steps": 4}}
    write_json(folder / "model_index.json", index)


def write_networks(folder: Path, conditioning_widths: tuple[int, ...] = CONDITIONING_WIDTHS, **unet: Any) -> None:
    """Complete an XPSR model: write the U-Net and the ControlNet into a folder that lacks them."""
    shutil.rmtree(folder / "unet", ignore_errors=True)
    write_checkpoint(folder / "checkpoint", *networks(conditioning_widths, **unet))
    for part in ("unet", "controlnet"):
        (folder / "checkpoint" / part).rename(folder / part)
    (folder / "checkpoint").rmdir()


def networks(
    conditioning_widths: tuple[int, ...] = CONDITIONING_WIDTHS, **unet: Any
) -> tuple[XPSRUNet, XPSRControlNet]:
    """U-Net and ControlNet with random weights. ``unet`` overrides entries of ``UNET``."""
    base = UNet2DConditionModel(**{**UNET, **unet})
    with Registry([]).in_force():
        return _shaken(XPSRUNet.from_base(base)), _shaken(XPSRControlNet.from_unet(base, conditioning_widths))


@torch.no_grad()
def shake(model: nn.Module) -> None:
    """Add noise to all weights. The zero convolutions of fresh models would hide the effect of all layers before."""
    for parameter in model.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.05)


def photo(width: int, height: int, seed: int = 0) -> Image.Image:
    """A picture with edges and gradients, in mode RGB."""
    colors = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    return Image.fromarray(colors).resize((width, height), Image.Resampling.BICUBIC)


def write_json(file: Path, content: dict[str, Any]) -> None:
    """Write a JSON file, and make its folder."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content), encoding="utf-8")


def _write_text_encoder(folder: Path) -> None:
    encoder = CLIPTextModel(CLIPTextConfig.from_pretrained(folder / "text_encoder"))
    encoder.save_pretrained(folder / "text_encoder")


def _shaken(model: Any) -> Any:
    shake(model)
    return model
