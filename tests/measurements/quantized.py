"""What quantised weights save and cost: memory, time, and the difference to the photo of the full precision.

    python -m tests.measurements.quantized cost
    python -m tests.measurements.quantized difference

The cost is that of Stable Diffusion 1.5 with XPSR in full size, with random weights, in bfloat16: the memory of U-Net
and ControlNet, and the time of one evaluation of both without guidance, in CPU seconds of this process. The difference
is that of nano, whose weights are trained: the PSNR to its photo in float32, at half of its usual number of steps.
``torchao`` is the weight-only int8 of torchao, if that is installed.
"""

from __future__ import annotations

import sys
import time
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn.utils.parametrize import is_parametrized, remove_parametrizations

from xpsr_sdk import Registry, build_pipeline
from xpsr_sdk.benchmark.random_model import CONTROLNET, UNET
from xpsr_sdk.engine.memory import weight_bytes
from xpsr_sdk.engine.quantized import quantize_networks
from xpsr_sdk.evaluation.metrics import psnr
from xpsr_sdk.models.controlnet import XPSRControlNet
from xpsr_sdk.models.unet import XPSRUNet

KINDS = ("full", "int8", "fp8", "nf4", *(("torchao",) if find_spec("torchao") else ()))
PHOTOS = ("examples/photo.jpg", "examples/indoor.jpg", "examples/web.jpg")
SIZE, SIDE = 256, 64
"""Sides of the result whose cost is measured, and of the crops of the photos that nano restores, in pixels."""


@torch.no_grad()
def cost() -> None:
    """Print the memory and the time of each kind, with the same random weights."""
    with Registry([]).in_force(), torch.device("meta"):
        networks = [model.to(torch.bfloat16) for model in (XPSRUNet(**UNET), XPSRControlNet(**CONTROLNET))]
    networks = [network.to_empty(device="cpu").eval() for network in networks]
    for network in networks:
        network.to(memory_format=torch.channels_last)
        for weight in network.parameters():
            weight.fill_(0.01)
            weight.flatten()[0] = 0.02  # the time does not depend on the values
    for kind in KINDS:
        quantize(networks, kind)
        size = sum(stored_bytes(network) for network in networks)
        print(f"{kind}: {size / 2**20:.0f} MiB, {evaluation(*networks):.2f} s", flush=True)
        restore(networks)


def evaluation(unet: Any, controlnet: Any) -> float:
    """CPU seconds of one evaluation, the best of two."""
    side, text = SIZE // 8, torch.randn(1, 77, 768).bfloat16()
    x, condition = (
        torch.randn(1, channels, side, side).bfloat16().contiguous(memory_format=torch.channels_last)
        for channels in (4, 320)
    )
    times = []
    for _ in range(2):
        began = time.process_time()
        out = controlnet(x, 500, text, lowlevel_encoder_hidden_states=text, condition_embedding=condition)
        unet(x, 500, text, text, out.down_block_res_samples, out.mid_block_res_sample)
        times.append(time.process_time() - began)
    return min(times)


def difference() -> None:
    """Print the distance of the photos of each kind to those of full precision."""
    expected = photos_of_nano("full", "float32")
    for kind, dtype in [("full", "bfloat16"), *((kind, "float32") for kind in KINDS[1:])]:
        scores = [psnr(a, b, channel="rgb") for a, b in zip(photos_of_nano(kind, dtype), expected, strict=True)]
        print(f"{kind}, {dtype}: {np.mean(scores):.1f} dB", flush=True)


def photos_of_nano(kind: str, dtype: Any) -> list[Any]:
    """Crops of the example photos, restored."""
    pipeline = build_pipeline(device="cpu", dtype=dtype)
    quantize([pipeline.unet, pipeline.controlnet, pipeline.text_encoder], kind)
    crops = [Image.open(photo).convert("RGB").crop((0, 0, SIDE, SIDE)) for photo in PHOTOS]
    return [np.asarray(pipeline(crop, seed=0, num_inference_steps=10).image) for crop in crops]


def quantize(networks: list[Any], kind: str) -> None:
    """Quantise the networks, also in ways that are refused on a CPU."""
    if kind == "torchao":
        from torchao.quantization import Int8WeightOnlyConfig, quantize_

        for network in networks:
            quantize_(network, Int8WeightOnlyConfig())
    elif kind != "full":
        quantize_networks(networks, kind)  # type: ignore[arg-type]


def restore(networks: list[nn.Module]) -> None:
    """Make quantised weights full ones again."""
    for layer in [layer for network in networks for layer in network.modules() if is_parametrized(layer)]:
        remove_parametrizations(layer, "weight")


def stored_bytes(network: nn.Module) -> int:
    """Bytes of the weights. Those of torchao are made of several tensors, which ``weight_bytes`` does not see."""
    total = weight_bytes(network)
    for weight in network.parameters():
        if hasattr(weight, "tensor_data_names"):
            parts = [getattr(weight, name) for name in weight.tensor_data_names]
            total += sum(part.nbytes for part in parts) - weight.numel() * weight.element_size()
    return total


if __name__ == "__main__":
    {"cost": cost, "difference": difference}[sys.argv[1]]()
