"""Compares this package with golden numbers of the published XPSR code.

    python -m tests.parity FOLDER...

Each FOLDER holds ``base/``, ``xpsr/`` and the tensors, as ``tests/fixtures/ref-sd15-tiny`` does. Prints the largest
error of each check beside the tolerance, and exits with 1 if one is over it.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from xpsr_sdk import Registry, build_pipeline
from xpsr_sdk.builtin.stable_diffusion import StableDiffusion
from xpsr_sdk.builtin.xpsr_losses import constraint_losses, diffusion_loss
from xpsr_sdk.data.images import to_image, to_tensor
from xpsr_sdk.engine.color import correct_color
from xpsr_sdk.models.checkpoints import WEIGHTS, read_checkpoint, read_model, write_checkpoint
from xpsr_sdk.models.controlnet import XPSRControlNet
from xpsr_sdk.models.fusion import to_published_name
from xpsr_sdk.models.schedule import NoiseSchedule
from xpsr_sdk.models.unet import XPSRUNet
from xpsr_sdk.training.optimizer import select_parameters

CONSTRAINT_WEIGHT = 0.05
TRAINED = ("controlnet.*", "unet.*pixel_attentions*", "unet.*fusions*")


@dataclass(frozen=True)
class Check:
    """A comparison: its name, the largest error, and what is tolerated."""

    name: str
    error: float
    tolerance: float

    @property
    def passed(self) -> bool:
        return self.error <= self.tolerance

    def __str__(self) -> str:
        return f"{'ok  ' if self.passed else 'FAIL'}  {self.name:44} {self.error:.2e}  (tolerance {self.tolerance:.0e})"


def run_checks(folder: Path) -> Iterator[Check]:
    """All checks that the folder has numbers for."""
    with Registry([]).in_force():
        yield from check_round_trip(folder)
        yield from check_initialisation(folder)
        yield from check_modules(folder)
        yield from check_training_step(folder)
    for name in ("whole", "tiled"):
        yield from check_pipeline(folder, name)


def check_round_trip(folder: Path) -> Iterator[Check]:
    """A checkpoint that is read and written holds the same tensors, byte for byte."""
    with tempfile.TemporaryDirectory() as scratch:
        write_checkpoint(Path(scratch) / "checkpoint-1", *read_checkpoint(folder / "xpsr"))
        for part in ("unet", "controlnet"):
            before = load_file(folder / "xpsr" / part / WEIGHTS)
            after = load_file(Path(scratch) / "checkpoint-1" / part / WEIGHTS)
            different = set(before) ^ set(after)
            different |= {n for n in before if n in after and not same_bytes(before[n], after[n])}
            yield Check(f"round trip, {part}: tensors that differ", len(different), 0)


def check_initialisation(folder: Path) -> Iterator[Check]:
    """A fresh model starts from the base as the published code does."""
    trained_unet, trained_controlnet = read_checkpoint(folder / "xpsr")
    base = read_model(UNet2DConditionModel, folder / "base" / "unet")
    options = ("up_use_lowlevel_prompt", "mid_use_lowlevel_prompt", "down_use_lowlevel_prompt")
    unet = XPSRUNet.from_base(base, **{name: trained_unet.config[name] for name in options})
    widths = trained_controlnet.config.conditioning_embedding_out_channels
    controlnet = XPSRControlNet.from_unet(base, widths)
    source = base.state_dict()
    expected = json.loads((folder / "init_from_base.json").read_text())
    for part, model in (("unet", unet), ("controlnet", controlnet)):
        tensors = {to_published_name(name): tensor for name, tensor in model.state_dict().items()}
        wrong = set(expected[part]) ^ set(tensors)
        for name in set(expected[part]) & set(tensors):
            origin, tensor = expected[part][name], tensors[name]
            if origin == "zeros":
                wrong |= {name} if tensor.any() else set()
            elif origin != "random":
                wrong |= set() if torch.equal(tensor, source[origin]) else {name}
        yield Check(f"initialisation, {part}: tensors that differ", len(wrong), 0)


@torch.no_grad()
def check_modules(folder: Path) -> Iterator[Check]:
    """ControlNet and U-Net on given inputs."""
    data = load_file(folder / "modules.safetensors")
    unet, controlnet = read_checkpoint(folder / "xpsr")
    sample, t, high, image = data["sample"], data["timestep"], data["high"], data["cond_image"]
    out = controlnet(sample, t, high, image, data["low"], conditioning_scale=0.8, heads=True)
    noise = unet(sample, t, high, data["low"], out.down_block_res_samples, out.mid_block_res_sample).sample
    alone = controlnet(sample, t, high, image)
    found = {"noise_pred": noise, "mid": out.mid_block_res_sample, "high_only.mid": alone.mid_block_res_sample}
    found["dfc_latent.mid"] = out.latents[-1]
    found["high_only.down.last"] = alone.down_block_res_samples[-1]
    found |= {f"down.{i}": x for i, x in enumerate(out.down_block_res_samples)}
    found |= {f"dfc_latent.{i}": x for i, x in enumerate(out.latents[:-1])}
    found |= {f"dfc_pixel.{i}": x for i, x in enumerate(out.rgbs)}
    expected = {name.removeprefix("out."): x for name, x in data.items() if name.startswith("out.")}
    yield Check("modules: outputs without a counterpart", len(set(expected) - set(found)), 0)
    groups = sorted({name.rstrip("0123456789.") for name in expected})
    for group in groups:
        errors = [relative(found[n], expected[n]) for n in expected if n.rstrip("0123456789.") == group and n in found]
        yield Check(f"modules, {group}", max(errors), 1e-5)


def check_training_step(folder: Path) -> Iterator[Check]:
    """Losses, and the gradient norm of every trained tensor."""
    data = load_file(folder / "train_step.safetensors")
    unet, controlnet = read_checkpoint(folder / "xpsr")
    backbone = StableDiffusion()
    backbone.load(folder / "base", torch.float32)
    models = {"unet": unet, "controlnet": controlnet}
    trained = select_parameters(models, TRAINED, each_must_match=False)  # not every U-Net has fusions
    schedule = NoiseSchedule(backbone.scheduler)
    noisy = schedule.add_noise(data["latents"], data["noise"], data["timesteps"])
    out = controlnet(noisy, data["timesteps"], data["high"], data["lr"], data["low"], heads=True)
    prediction = unet(
        noisy, data["timesteps"], data["high"], data["low"], out.down_block_res_samples, out.mid_block_res_sample
    ).sample
    target = schedule.target(data["latents"], data["noise"], data["timesteps"])
    diffusion = diffusion_loss(prediction, target)
    pixel, latent = constraint_losses(out.rgbs, out.latents, data["hr"], data["latents"])
    losses = {"loss_diffusion": diffusion}
    losses |= {"loss_dfc_pixel": CONSTRAINT_WEIGHT * pixel, "loss_dfc_latent": CONSTRAINT_WEIGHT * latent}
    losses["loss"] = torch.stack(list(losses.values())).sum()
    losses["loss"].backward()
    for name, value in losses.items():
        yield Check(f"training step, {name}", relative(value, data[f"out.{name}"]), 1e-5)

    expected = json.loads((folder / "train_step_grad_norms.json").read_text())
    found = {to_published_name(n): p.grad.norm().item() for n, p in trained.items() if p.grad is not None}
    yield Check("training step: gradients without a counterpart", len(set(expected) ^ set(found)), 0)
    largest = max(expected.values())
    errors = [abs(found[n] - e) / max(e, 1e-4 * largest) for n, e in expected.items() if n in found]
    yield Check("training step, gradient norms", max(errors), 1e-3)


def check_pipeline(folder: Path, name: str) -> Iterator[Check]:
    """A whole sampling run from given start latents."""
    settings = json.loads((folder / f"pipeline_{name}.json").read_text())
    data = load_file(folder / f"pipeline_{name}.safetensors")
    photo = Image.open(folder / f"pipeline_{name}_input.png").convert("RGB")
    pipeline = build_pipeline(model=str(folder / "base"), checkpoint=folder / "xpsr", device="cpu", dtype="float32")
    negatives = [settings["negative_prompt"], settings["lowlevel_negative_prompt"]]
    with torch.no_grad():
        for level, prompt, negative in zip(
            ("high", "low"), (settings["prompt"], settings["lowlevel_prompt"]), negatives, strict=True
        ):
            found = pipeline.backbone.encode_text([negative, prompt]).embeddings
            yield Check(f"{name}, text, {level}", relative(found, data[f"out.prompt_embeds_{level}"]), 1e-5)

    seen: list[Tensor] = []
    result = pipeline(
        photo,
        latents=data["latents_init"],
        callback=lambda _step, _timestep, latents: seen.append(latents),
        scale=1,
        prompt=settings["prompt"],
        positive="",
        low_prompt=settings["lowlevel_prompt"],
        negative=negatives[0],
        low_negative=negatives[1],
        num_inference_steps=settings["num_inference_steps"],
        guidance_scale=settings["guidance_scale"],
        conditioning_scale=settings["conditioning_scale"],
        tile=settings["latent_tile"] * pipeline.stride,
        tile_overlap=settings["latent_tile_overlap"] * pipeline.stride,
        color="none",
    )
    yield Check(f"{name}, final latents", relative(seen[-1], data["out.latents"]), 1e-4)
    raw = Image.open(folder / f"pipeline_{name}_output.png").convert("RGB")
    yield Check(f"{name}, image (levels)", levels(result.image, raw), 1)
    for method in ("adain", "wavelet"):
        # From the golden raw image: where ours rounds another way, the correction would amplify that one level.
        corrected = to_image(correct_color(to_tensor(raw), to_tensor(photo), method))
        golden = Image.open(folder / f"pipeline_{name}_output_{method}.png").convert("RGB")
        yield Check(f"{name}, colour {method} (levels)", levels(corrected, golden), 1)


def levels(a: Image.Image, b: Image.Image) -> float:
    """The largest difference of two 8-bit images."""
    return float(np.abs(np.asarray(a, int) - np.asarray(b, int)).max())


def relative(found: Tensor, expected: Tensor) -> float:
    """The largest difference, relative to the largest value."""
    return float((found - expected).detach().abs().max() / expected.abs().max().clamp(min=1e-12))


def same_bytes(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a.view(torch.uint8), b.view(torch.uint8))


def main(folders: list[str]) -> int:
    if not folders:
        print(__doc__)
        return 2
    failed = 0
    for folder in folders:
        print(folder)
        for check in run_checks(Path(folder)):
            print(f"  {check}")
            failed += not check.passed
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
