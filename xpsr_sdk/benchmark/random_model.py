"""A model in full size with random weights, to be measured where there is no download."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKL, UniPCMultistepScheduler
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from xpsr_sdk.builtin.stable_diffusion import StableDiffusion
from xpsr_sdk.config import PRESETS
from xpsr_sdk.contracts import parts_of
from xpsr_sdk.models.controlnet import XPSRControlNet
from xpsr_sdk.models.unet import XPSRUNet
from xpsr_sdk.pipeline import Pipeline
from xpsr_sdk.plugin_system.registry import Registry

UNET: dict[str, Any] = {"cross_attention_dim": 768}
"""The options of Stable Diffusion 1.5 that differ from diffusers' defaults."""
CONTROLNET: dict[str, Any] = {**UNET, "conditioning_embedding_out_channels": (16, 32, 96, 256)}


@torch.no_grad()
def random_stable_diffusion(device: torch.device, dtype: torch.dtype) -> Pipeline:
    """XPSR for Stable Diffusion 1.5 in full size, with random weights, which are as fast as trained weights."""
    text = CLIPTextConfig(
        vocab_size=49408, hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12
    )
    registry = Registry([])
    with torch.device("meta"), registry.in_force():
        unet, controlnet = XPSRUNet(**UNET), XPSRControlNet(**CONTROLNET)
        vae = AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
        )
    backbone: Any = StableDiffusion()
    backbone.tokenizer = CLIPTokenizer.from_pretrained(PRESETS / "nano" / "tokenizer")
    backbone.text_encoder = CLIPTextModel(text).to(device, dtype)
    backbone.scheduler = UniPCMultistepScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    unet, controlnet, backbone.vae = (_filled(model, device, dtype) for model in (unet, controlnet, vae))
    pipeline = Pipeline(**parts_of(backbone), unet=unet, controlnet=controlnet)
    with registry.in_force():
        pipeline.configure(backbone=backbone)
    return pipeline


def _filled(model: nn.Module, device: torch.device, dtype: torch.dtype) -> Any:
    """Move a model from the meta device to a real one, with small random weights."""
    model = nn.Module.to(model, dtype=dtype).to_empty(device=device).eval()
    for name, weight in model.named_parameters():
        if weight.ndim > 1:
            weight.uniform_(-1, 1).mul_(weight[0].numel() ** -0.5)
        else:
            weight.fill_(float(name.endswith("weight")))
    return model
