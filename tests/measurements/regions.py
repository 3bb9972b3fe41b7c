"""What restoring in regions costs in memory, and how its result differs from the one of the whole photo.

    python -m tests.measurements.regions memory --sides 4096 16384
    python -m tests.measurements.regions memory --sides 4096 --model random-sd15 --fidelity 0
    python -m tests.measurements.regions seams --model nano --fidelity 1

``memory`` restores a square photo to each side, in a process of its own, from a JPEG file to a TIFF file, and prints
the peak of resident memory. ``seams`` restores the example photo whole and in regions of 512 pixels. Without
``--model`` both use a small model with random weights; ``random-sd15`` is Stable Diffusion 1.5 in full size, likewise.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyvips
import torch

from tests.support import tiny
from xpsr_sdk import Pipeline, build_pipeline
from xpsr_sdk.benchmark.random_model import random_stable_diffusion
from xpsr_sdk.engine.regions import plan_regions

PHOTO = Path("examples/photo.jpg")


def memory(model: str, sides: list[int], region: int, fidelity: float) -> None:
    """Peak resident memory of a process that restores a photo to each of the sides."""
    print(f"{'result':>14} {'regions':>8} {'peak MiB':>9} {'file MiB':>9} {'s':>8}")
    for side in sides:
        with tempfile.TemporaryDirectory() as folder, multiprocessing.get_context("spawn").Pool(1) as pool:
            count, peak, size, seconds = pool.apply(restore_one, (model, Path(folder), side, region, fidelity))
        print(f"{side:>6} x {side:<5} {count:>8} {peak:>9.0f} {size:>9.0f} {seconds:>8.0f}", flush=True)


def restore_one(model: str, folder: Path, side: int, region: int, fidelity: float) -> tuple[int, float, float, float]:
    """Regions, peak MiB, MiB of the result's file, and seconds."""
    photo = pyvips.Image.new_from_file(str(PHOTO))
    photo.resize(side / 4 / photo.width, vscale=side / 4 / photo.height).write_to_file(str(folder / "photo.jpg"))
    began = time.perf_counter()
    pipe = _build(model)
    settings = {"fidelity": fidelity, "region": region, "num_inference_steps": 1, "low_prompt": "blurry"}
    result = pipe(
        folder / "photo.jpg",
        progress=lambda done, total: print(f"\r{done}/{total}", end="", file=sys.stderr),
        **settings,
    )
    result.save(folder / "restored.tif")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    return result.plan.regions, peak, (folder / "restored.tif").stat().st_size / 2**20, time.perf_counter() - began


def _build(model: str) -> Pipeline:
    if model == "random-sd15":
        return random_stable_diffusion(torch.device("cpu"), torch.bfloat16)
    return build_pipeline(model=model, device="cpu")


def seams(model: str, fidelity: float, region: int = 512) -> None:
    """How a photo in regions differs from the whole one, and whether edges appear where regions meet."""
    pipe = build_pipeline(model=model, fidelity=fidelity, scale=8.0, seed=0, device="cpu", tile=256)
    whole = np.asarray(pipe(PHOTO).image, float)
    parts = np.asarray(pipe(PHOTO, region=region, region_overlap=128).image, float)
    height, width = whole.shape[:2]
    planned = plan_regions(width, height, region, 128, pipe.stride)
    fading = np.zeros((height, width), bool)
    for each in planned:
        fading[each.top : each.bottom, each.left : each.left + each.fade_left] = True
        fading[each.top : each.top + each.fade_top, each.left : each.right] = True
    difference = np.abs(whole - parts).mean(2)
    psnr = 10 * np.log10(255**2 / ((whole - parts) ** 2).mean())
    print(f"{len(planned)} regions of a result of {width} x {height}, model {model}, fidelity {fidelity:g}")
    print(f"PSNR between both results: {psnr:.1f} dB")
    print(f"mean difference where regions fade into each other: {difference[fading].mean():.2f} of 255 levels")
    print(f"mean difference elsewhere: {difference[~fading].mean():.2f} of 255 levels")
    for name, image in (("whole", whole), ("regions", parts)):
        print(f"gradient where regions fade over gradient elsewhere, {name}: {_gradient_ratio(image, fading):.3f}")


def _gradient_ratio(image: np.ndarray, where: np.ndarray) -> float:
    steps = np.abs(np.diff(image.mean(2), axis=0))[:, :-1] + np.abs(np.diff(image.mean(2), axis=1))[:-1]
    where = where[:-1, :-1]
    return float(steps[where].mean() / steps[~where].mean())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["memory", "seams"])
    parser.add_argument("--model", help="Preset, folder or random-sd15; without it, a small model with random weights.")
    parser.add_argument("--fidelity", type=float, default=1.0)
    parser.add_argument("--sides", type=int, nargs="+", default=[4096, 8192], help="Of the results, in pixels.")
    parser.add_argument("--region", type=int, default=2048)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as chosen:
        if not arguments.model:
            tiny.write_whole_model(Path(chosen, "model"))
        name = arguments.model or str(Path(chosen, "model"))
        if arguments.what == "memory":
            memory(name, arguments.sides, arguments.region, arguments.fidelity)
        else:
            seams(name, arguments.fidelity)
