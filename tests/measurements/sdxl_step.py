"""One step of XPSR on SDXL in full size, with random weights, in bfloat16 on the CPU: its time and its memory.

python -m tests.measurements.sdxl_step
"""

from __future__ import annotations

import resource
import time
from typing import Any

import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from tests.support import tiny
from tests.support.full_size import CLIP_BIG_G, CLIP_L, SDXL_UNET, VAE, networks
from xpsr_sdk import Pipeline, Registry
from xpsr_sdk.builtin.stable_diffusion_xl import StableDiffusionXL
from xpsr_sdk.contracts import parts_of

GIB = 2**30


@torch.no_grad()
def random_sdxl() -> Pipeline:
    """A pipeline of it. The tokenizers are those of nano, which has fewer words."""
    backbone: Any = StableDiffusionXL()
    with torch.device("meta"):
        unet, controlnet = networks(SDXL_UNET, {"name": "xpsr", "depth": 1})
        backbone.vae = AutoencoderKL(**VAE, scaling_factor=0.13025)
    # These hold numbers that are computed when they are made, so they are not made on the meta device.
    backbone.text_encoder = CLIPTextModel(CLIPTextConfig(**CLIP_L)).to(torch.bfloat16).eval()
    backbone.text_encoder_2 = CLIPTextModelWithProjection(CLIPTextConfig(**CLIP_BIG_G)).to(torch.bfloat16).eval()
    backbone.tokenizer = backbone.tokenizer_2 = CLIPTokenizer.from_pretrained(tiny.NANO_BASE / "tokenizer")
    betas: dict[str, Any] = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    backbone.scheduler = EulerDiscreteScheduler(**betas, timestep_spacing="leading", steps_offset=1)
    for network in (unet, controlnet, backbone.vae):
        fill(nn.Module.to(network, torch.bfloat16).to_empty(device="cpu").eval())
    pipeline = Pipeline(**parts_of(backbone), unet=unet, controlnet=controlnet)
    pipeline.configure(backbone=backbone)
    return pipeline


def fill(network: nn.Module) -> None:
    """Small random weights; norms that change nothing."""
    for name, weight in network.named_parameters():
        if weight.ndim > 1:
            weight.uniform_(-1, 1).mul_(weight[0].numel() ** -0.5)
        else:
            weight.fill_(float(name.endswith("weight")))


def main() -> None:
    began = time.perf_counter()
    with Registry([]).in_force():
        pipeline = random_sdxl()
    print(f"Built in {time.perf_counter() - began:.0f} s: {peak():.1f} GiB at most", flush=True)
    result = pipeline(tiny.photo(128, 128), seed=0, scale=4, num_inference_steps=1, guidance_scale=1, color="none")
    print(f"One step at {result.image.size}, {result.plan.dtype}: {result.timings}; {peak():.1f} GiB at most")


def peak() -> float:
    """GiB of memory that the process had at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB


if __name__ == "__main__":
    main()
