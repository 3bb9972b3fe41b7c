"""How much quicker a tiny autoencoder is than Stable Diffusion's own.

    python tests/measurements/tiny_vae.py

Random weights of the real sizes (the defaults of TAESD in diffusers, and the widths of SD 1.x and 2.x): what they do
costs the same as with trained ones. The two take turns, and the medians are compared.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from torch import Tensor

SIDE, ROUNDS = 128, 3
LARGE = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
}


@torch.inference_mode()
def main() -> None:
    """Print parameters, and the times relative to the large autoencoder's."""
    large, tiny = AutoencoderKL(**LARGE).eval(), AutoencoderTiny().eval()
    image, latents = torch.rand(1, 3, SIDE, SIDE) * 2 - 1, torch.randn(1, 4, SIDE // 8, SIDE // 8)
    for name, model in (("large", large), ("tiny", tiny)):
        print(f"{name}: {sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters")
    for name in ("encode", "decode"):
        data = image if name == "encode" else latents
        ratio = compare(getattr(large, name), getattr(tiny, name), data)
        print(
            f"{name}: the tiny one takes 1/{ratio:.0f} of the time ({SIDE}x{SIDE}, {torch.get_num_threads()} threads)"
        )


def compare(one: Callable[[Tensor], object], other: Callable[[Tensor], object], data: Tensor) -> float:
    """How many times as long ``one`` takes."""
    other(data)
    times = [(seconds(one, data), seconds(other, data)) for _ in range(ROUNDS)]
    return median(first for first, _ in times) / median(second for _, second in times)


def seconds(function: Callable[[Tensor], object], data: Tensor) -> float:
    """CPU seconds of this process: other programs on the machine count less."""
    began = time.process_time()
    function(data)
    return time.process_time() - began


if __name__ == "__main__":
    main()
