"""Models and photos that are small enough for tests."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from PIL import Image
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from xpsr_sdk.models.checkpoints import write_checkpoint
from xpsr_sdk.models.controlnet import XPSRControlNet
from xpsr_sdk.models.unet import XPSRUNet

NANO_BASE = Path("examples/train_nano/base")
SD_TINY = Path("tests/data/ref-sd15-tiny")
CONDITIONING_WIDTHS = (4, 8, 8)  # a stride of 4, like that of the residual autoencoder
DEFAULTS = {
    "num_inference_steps": 4,
    "guidance_scale": 1.0,
    "fidelity": 0.5,
    "start": "mean",
    "color": "none",
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
    "cross_attention_dim": 16,
    "norm_num_groups": 4,
}


def write_base(folder: Path) -> None:
    """Configs of a base model with the residual backbone: what training from scratch reads."""
    for part in ("tokenizer", "scheduler"):
        shutil.copytree(NANO_BASE / part, folder / part)
    index = json.loads((NANO_BASE / "model_index.json").read_text())
    write_json(folder / "model_index.json", index | {"defaults": DEFAULTS})
    text = json.loads((NANO_BASE / "text_encoder" / "config.json").read_text())
    text |= {"hidden_size": 16, "intermediate_size": 32, "projection_dim": 16}
    write_json(folder / "text_encoder" / "config.json", text)
    write_json(folder / "vae" / "config.json", {"_class_name": "ResidualAutoencoder", "stride": 4})
    UNet2DConditionModel(**UNET).save_config(folder / "unet")


def write_whole_model(folder: Path, seed: int = 0) -> None:
    """A whole model with random weights, of which every part matters."""
    write_base(folder)
    torch.manual_seed(seed)
    CLIPTextModel(CLIPTextConfig.from_pretrained(folder / "text_encoder")).save_pretrained(folder / "text_encoder")
    unet, controlnet = networks()
    shutil.rmtree(folder / "unet")
    write_checkpoint(folder / "checkpoint", unet, controlnet)
    for part in ("unet", "controlnet"):
        (folder / "checkpoint" / part).rename(folder / part)
    (folder / "checkpoint").rmdir()


def networks(**unet_config: Any) -> tuple[XPSRUNet, XPSRControlNet]:
    """U-Net and ControlNet with random weights."""
    base = UNet2DConditionModel(**{**UNET, **unet_config})
    unet, controlnet = XPSRUNet.from_base(base), XPSRControlNet.from_unet(base, CONDITIONING_WIDTHS)
    shake(unet)
    shake(controlnet)
    return unet, controlnet


@torch.no_grad()
def shake(model: nn.Module) -> None:
    """Add noise to all weights: fresh models have zero convolutions, behind which nothing matters."""
    for parameter in model.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.05)


def photo(width: int, height: int, seed: int = 0) -> Image.Image:
    """A picture with edges and gradients."""
    colors = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    return Image.fromarray(colors).resize((width, height), Image.Resampling.BICUBIC)


def write_json(file: Path, content: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))
