"""What training XPSR on Stable Diffusion 1.5 or XL takes, at full size, without its weights.

    python -m tests.measurements.training_memory
    python -m tests.measurements.training_memory --base sdxl
    python -m tests.measurements.training_memory --operations
    python -m tests.measurements.training_memory --step --optimizer adamw-8bit
    python -m tests.measurements.training_memory --one-step

The first two count parameters and, on tensors without content, every byte of a restoration and of a step; the third,
likewise, what each part of a step of SD 1.5 at 512 x 512 pixels computes. The fourth takes a real step of SD 1.5 on the
CPU with random weights, at 256 x 256 pixels in bfloat16, and prints how much memory the process had at most. The last
counts, like the first, for the distillation to one step.
"""

from __future__ import annotations

import resource
import tempfile
import time
from argparse import ArgumentParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from PIL import Image
from torch._subclasses import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPTextConfig, CLIPTextModel

from tests.support import tiny
from tests.support.full_size import CLIP_L, SD15_UNET, SDXL_UNET, VAE, networks
from xpsr_sdk import Registry
from xpsr_sdk.builtin.stable_diffusion import StableDiffusion
from xpsr_sdk.config import load_config
from xpsr_sdk.contracts import TrainedModel
from xpsr_sdk.engine.memory import activation_bytes, weight_bytes
from xpsr_sdk.models.added_conditioning import empty_added
from xpsr_sdk.models.blocks import checkpoint_gradients
from xpsr_sdk.models.controlnet import XPSRControlNet
from xpsr_sdk.models.lora import LORA_PATTERN, add_lora
from xpsr_sdk.models.schedule import NoiseSchedule
from xpsr_sdk.models.unet import XPSRUNet
from xpsr_sdk.training.config import LossSection, TrainConfig, WeightedTerm
from xpsr_sdk.training.loop import TrainingRun
from xpsr_sdk.training.memory import GIB, StepMemory, step_memory
from xpsr_sdk.training.objective import Objective, StepInputs
from xpsr_sdk.training.optimizer import select_parameters
from xpsr_sdk.training.terms import Terms

SD15_SCHEDULE: dict[str, Any] = {
    "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000
}  # fmt: skip
XPSR = ("controlnet.*", "unet.*pixel_attentions*")


BASES: dict[str, Any] = {
    "sd15": {"unet": SD15_UNET, "fusion": None, "sizes": ((256, 1), (512, 1), (512, 2))},
    "sdxl": {"unet": SDXL_UNET, "fusion": {"name": "xpsr", "depth": 1}, "sizes": ((512, 1), (1024, 1))},
}
"""The base models, the fusions in their examples/configs, and the sizes and batches to count."""


def networks_on(base: str) -> tuple[XPSRUNet, XPSRControlNet]:
    """Fresh XPSR parts on a base, on the device and in the mode of the caller."""
    with Registry([]).in_force():
        return networks(BASES[base]["unet"], BASES[base]["fusion"])


def parameters(base: str) -> dict[str, float]:
    """Millions of parameters."""
    with torch.device("meta"):
        unet, controlnet = networks_on(base)
    pixel = sum(p.numel() for name, p in unet.named_parameters() if ".pixel_attentions." in name)
    fusion = sum(p.numel() for name, p in controlnet.named_parameters() if ".fusions." in name)
    counts = {"ControlNet": sum(p.numel() for p in controlnet.parameters()), "of it fusion": fusion}
    counts |= {"U-Net": sum(p.numel() for p in unet.parameters()), "of it pixel attention": pixel}
    return {name: count / 1e6 for name, count in counts.items()}


def restoration(base: str, size: int) -> dict[str, float]:
    """GiB of the weights, and of the features in a pass with guidance and in decoding, in bfloat16."""
    with torch.device("meta"):
        (unet, controlnet), vae = networks_on(base), AutoencoderKL(**VAE)
        for network in (unet, controlnet, vae):
            torch.nn.Module.to(network, torch.bfloat16)  # diffusers' own ``to`` warns
        x, text, picture = (
            torch.empty(2, *shape, dtype=torch.bfloat16)
            for shape in ((4, size // 8, size // 8), (77, unet.config.cross_attention_dim), (3, size, size))
        )
        added: Any = {"added_cond_kwargs": empty_added(unet, 2)}

        def predict() -> None:
            out = controlnet(x, 500, text, picture, text, **added)
            unet(x, 500, text, text, out.down_block_res_samples, out.mid_block_res_sample, **added)

        return {
            "weights": sum(map(weight_bytes, (unet, controlnet, vae))) / GIB,
            "features": activation_bytes(predict, (unet, controlnet)) / GIB,
            "decoder": activation_bytes(lambda: vae.decode(x[:1]), (vae,)) / GIB,
        }


def objective_of(unet: XPSRUNet, controlnet: XPSRControlNet, text_encoder: torch.nn.Module) -> Objective:
    """XPSR's loss for these networks."""
    backbone: Any = SimpleNamespace(text_encoder=text_encoder, vae=torch.nn.Identity())
    model = TrainedModel(unet, controlnet, backbone, NoiseSchedule(DDIMScheduler(**SD15_SCHEDULE)), torch.bfloat16)
    return Objective(model, LossSection(), Terms(LossSection(), model, Registry([]), seed=0))


def inputs_of(unet: XPSRUNet, batch: int, size: int) -> StepInputs:
    """The inputs of a step, without content."""
    image, latents = torch.zeros(batch, 3, size, size), torch.zeros(batch, 4, size // 8, size // 8)
    whole, text = torch.zeros(batch, dtype=torch.long), torch.zeros(batch, 77, unet.config.cross_attention_dim)
    added = {name: torch.zeros(x.shape) for name, x in empty_added(unet, batch).items()}
    positions: Any = SimpleNamespace(tolist=lambda: list(range(batch)))  # a tensor without content has no numbers
    return StepInputs(image, image, image, latents, latents, latents, whole, text, text, whole > 0, positions, added)


def memory(base: str, size: int, batch: int, checkpointing: bool, optimizer: str = "adamw") -> StepMemory:
    """A step in bfloat16, counted on tensors without content; frozen weights are held in bfloat16, too."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        unet, controlnet = networks_on(base)
        trained = select_parameters({"unet": unet, "controlnet": controlnet}, XPSR)
        for parameter in unet.parameters():
            if not parameter.requires_grad and parameter.ndim > 1:
                parameter.data = parameter.data.to(torch.bfloat16)
        if checkpointing:
            checkpoint_gradients(unet)
            checkpoint_gradients(controlnet)
        objective = objective_of(unet, controlnet, torch.nn.Identity())
        inputs = inputs_of(unet, batch, size)

        def loss() -> torch.Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                return objective(inputs)["loss"]

        return step_memory([unet, controlnet], trained, optimizer, loss)


def distillation(size: int, batch: int, terms: dict[str, Any]) -> tuple[StepMemory, dict[str, float]]:
    """A step of the distillation to one step, counted like ``memory``, and millions of parameters.

    The memory is that of all networks but the text encoder and those of metrics.
    """
    with torch.device("meta"):
        unet, controlnet = networks_on("sd15")
        backbone: Any = StableDiffusion()
        backbone.text_encoder, backbone.vae = torch.nn.Identity(), AutoencoderKL(**VAE).requires_grad_(False)
        model = TrainedModel(unet, controlnet, backbone, NoiseSchedule(DDIMScheduler(**SD15_SCHEDULE)), torch.bfloat16)
        loss = LossSection(terms={name: WeightedTerm(**options) for name, options in terms.items()})
        own = Terms(loss, model, Registry([]), seed=0)
        add_lora(unet, rank=4)
    for parameter in (*unet.parameters(), *controlnet.parameters()):
        parameter.requires_grad_(False)
    select_parameters({"unet": unet, "controlnet": controlnet}, (LORA_PATTERN,))
    for network in (unet, controlnet):
        checkpoint_gradients(network)
    with FakeTensorMode(allow_non_fake_inputs=True):
        for network in (unet, controlnet, own, backbone.vae):
            fill(network, torch.float32 if network is backbone.vae else torch.bfloat16)
        trained = select_parameters({"unet": unet}, (LORA_PATTERN,)) | own.trained()
        objective = Objective(model, loss, own, one_step=True)
        inputs = inputs_of(unet, batch, size)

        def forward() -> torch.Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                return objective(inputs)["loss"]

        counts = {}
        for name, network in {"U-Net": unet, "ControlNet": controlnet, "terms": own}.items():
            for kind in ("trained", "frozen"):
                sizes = [p.numel() for p in network.parameters() if p.requires_grad == (kind == "trained")]
                counts[f"{name}, {kind}"] = sum(sizes) / 1e6
        return step_memory([unet, controlnet, own, backbone.vae], trained, "adamw", forward), counts


def fill(network: torch.nn.Module, frozen: torch.dtype) -> None:
    """Replace tensors on the meta device by those of the mode of the caller; frozen matrices in that precision."""
    for module in network.modules():
        for name, tensor in module.named_parameters(recurse=False):
            dtype = frozen if not tensor.requires_grad and tensor.ndim > 1 else torch.float32
            filled = torch.nn.Parameter(torch.zeros(tensor.shape, dtype=dtype), requires_grad=tensor.requires_grad)
            module.register_parameter(name, filled)
        for name, tensor in module.named_buffers(recurse=False):
            module.register_buffer(name, torch.zeros(tensor.shape, dtype=tensor.dtype))


def operations() -> dict[str, float]:
    """10^12 floating-point operations for an image of 512 x 512 pixels, by part of the step."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        vae, text_encoder = AutoencoderKL(**VAE), CLIPTextModel(CLIPTextConfig(**CLIP_L))
        unet, controlnet = networks_on("sd15")
        select_parameters({"unet": unet, "controlnet": controlnet}, XPSR)
        objective = objective_of(unet, controlnet, text_encoder)
        image, inputs = torch.zeros(1, 3, 512, 512), inputs_of(unet, 1, 512)

        def encode() -> None:
            with torch.no_grad():
                vae.encode(image)

        def encode_text() -> None:
            with torch.no_grad():
                text_encoder(torch.zeros(2, 77, dtype=torch.long))

        parts = {"autoencoder": encode, "text encoder": encode_text}
        parts["forward and backward pass"] = lambda: objective(inputs)["loss"].backward()
        counts = {}
        for name, part in parts.items():
            with FlopCounterMode(display=False) as counter:
                part()
            counts[name] = counter.get_total_flops() / 1e12
    return counts


def real_step(optimizer: str, size: int, ema: bool = True) -> tuple[float, float]:
    """Peak of the process's memory in GiB, and seconds of a step."""
    with tempfile.TemporaryDirectory() as scratch:
        run = TrainingRun(_config(Path(scratch), optimizer, size, ema))
        before = {name: parameter.detach().mean().item() for name, parameter in run.trained.items()}
        began = time.perf_counter()
        print({name: round(value, 4) for name, value in run.one_step().items()})
        seconds = time.perf_counter() - began
        moved = sum(before[name] != parameter.detach().mean().item() for name, parameter in run.trained.items())
        print(f"{moved} of {len(before)} trained tensors have moved")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB, seconds


def _config(folder: Path, optimizer: str, size: int, ema: bool) -> TrainConfig:
    """A run on a base model of the size of Stable Diffusion 1.5, with random weights."""
    base, photos = folder / "base", folder / "photos"
    tiny.write_configs(base)
    with torch.device("meta"):
        UNet2DConditionModel(**SD15_UNET).save_config(base / "unet")
    CLIPTextConfig(**CLIP_L).save_pretrained(base / "text_encoder")
    AutoencoderKL(**VAE).to(torch.bfloat16).save_pretrained(base / "vae")
    DDIMScheduler(**SD15_SCHEDULE).save_pretrained(base / "scheduler")
    photos.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(photos / "noise.png")
    values = {
        "output": folder / "run", "steps": 1, "batch_size": 1, "device": "cpu", "precision": "bfloat16",
        "gradient_checkpointing": True, "trackers": [],
        "model": {"base": base, "from_scratch": True, "frozen_in_half": True, "train": XPSR},
        "data": {"folders": [photos], "crop": size},
        "optimizer": {"name": optimizer, "ema_decay": 0.9999 if ema else 0},
    }  # fmt: skip
    return load_config(TrainConfig, values, "the benchmark")


def main() -> None:
    parser = ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--base", default="sd15", choices=list(BASES), help="whose memory is counted")
    parser.add_argument("--step", action="store_true", help="take a real step")
    parser.add_argument("--operations", action="store_true", help="count floating-point operations")
    parser.add_argument("--optimizer", default="adamw", choices=["adamw", "adamw-8bit"])
    parser.add_argument("--no-ema", action="store_true", help="in the real step, keep no EMA weights")
    parser.add_argument("--size", type=int, default=256, help="of the real step, in pixels")
    parser.add_argument("--one-step", action="store_true", help="count for the distillation to one step")
    arguments = parser.parse_args()
    if arguments.one_step:
        for terms in ({"pixel": {}}, {"pixel": {}, "score-distillation": {}}):
            found, counts = distillation(512, 1, terms)
            print(", ".join(terms), dict(found.rows()), counts)
        return
    if arguments.step:
        peak, seconds = real_step(arguments.optimizer, arguments.size, not arguments.no_ema)
        print(f"A step at {arguments.size} x {arguments.size}, batch 1: {peak:.1f} GiB at most, {seconds:.0f} s")
        return
    if arguments.operations:
        for name, count in operations().items():
            print(f"{name:26} {count:6.2f} TFLOP")
        return
    for name, millions in parameters(arguments.base).items():
        print(f"{name:22} {millions:8.1f} M")
    for size in (512, 1024):
        found = {name: f"{gib:.2f} GiB" for name, gib in restoration(arguments.base, size).items()}
        print(f"Restoring {size} x {size}: {found}", flush=True)
    for size, batch in BASES[arguments.base]["sizes"]:
        for checkpointing in (False, True):
            counted = memory(arguments.base, size, batch, checkpointing, arguments.optimizer)
            how = "with" if checkpointing else "without"
            print(f"{size} x {size}, batch {batch}, {how} gradient checkpointing: {dict(counted.rows())}", flush=True)


if __name__ == "__main__":
    main()
