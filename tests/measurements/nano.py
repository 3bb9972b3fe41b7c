"""Measures a model on training-style pairs: photos that were degraded by `xpsr data prepare`.

    python -m tests.measurements.nano PAIRS --weights FOLDER [--model nano] [--fidelity 1 0.5 0] [--limit N] [-o OUT]

Prints PSNR-Y, SSIM-Y, LPIPS and DISTS of bicubic enlargement and of the model at each fidelity, as the mean over the
photos; then PSNR-Y at fidelity 1 with each photo's own low-level prompt, another photo's, and none. `--weights` is a
folder as `xpsr evaluate --weights` takes it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from xpsr_sdk import Pipeline, build_pipeline
from xpsr_sdk.data.images import find_images, resize, to_image, to_tensor
from xpsr_sdk.evaluation.metrics import psnr, ssim
from xpsr_sdk.evaluation.perceptual import Perceptual

Pair = tuple[Image.Image, Image.Image, str]
NAMES = ("PSNR-Y", "SSIM-Y", "LPIPS", "DISTS")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", type=Path)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--fidelity", type=float, nargs="+", default=[1.0, 0.5, 0.0])
    parser.add_argument("--limit", type=int)
    parser.add_argument("--no-dists", action="store_true", help="leave DISTS out: it takes most of the time")
    parser.add_argument("-o", "--output", type=Path, help="folder for the restored photos")
    arguments = parser.parse_args()

    pairs = read_pairs(arguments.pairs)[: arguments.limit]
    distances = [Perceptual(n, weights=arguments.weights) for n in ("lpips", "dists")[: 1 if arguments.no_dists else 2]]
    pipeline = build_pipeline(model=arguments.model)
    rows = {"bicubic": measure([enlarge(lr, hr) for hr, lr, _ in pairs], pairs, distances)}
    for fidelity in arguments.fidelity:
        restored = restore(pipeline, pairs, fidelity, [low for _, _, low in pairs])
        rows[f"fidelity {fidelity:g}"] = measure(restored, pairs, distances)
        for i, image in enumerate(restored):
            if arguments.output:
                arguments.output.mkdir(parents=True, exist_ok=True)
                image.save(arguments.output / f"{i:03d}-fidelity-{fidelity:g}.png")
        print_row(f"fidelity {fidelity:g}", rows[f"fidelity {fidelity:g}"], rows["bicubic"])
    prompts = {"its own": [low for _, _, low in pairs], "another's": [low for _, _, low in pairs[1:] + pairs[:1]]}
    for name, lows in {**prompts, "empty": [""] * len(pairs)}.items():
        restored = restore(pipeline, pairs, 1.0, lows)
        rows[f"prompt {name}"] = measure(restored, pairs, [])
        print_row(f"low-level prompt: {name}", rows[f"prompt {name}"], rows["bicubic"])
    print(json.dumps(rows))


def read_pairs(folder: Path) -> list[Pair]:
    """Sharp photo, degraded photo and low-level prompt of each pair."""
    pairs = []
    for hr in find_images(folder / "HR"):
        prompt = (folder / "lowlevel_prompt_q" / f"{hr.stem}.txt").read_text(encoding="utf-8")
        pairs.append((Image.open(hr).convert("RGB"), Image.open(folder / "LR" / hr.name).convert("RGB"), prompt))
    return pairs


def enlarge(lr: Image.Image, hr: Image.Image) -> Image.Image:
    return to_image(resize(to_tensor(lr), hr.height, hr.width))


def restore(pipeline: Pipeline, pairs: Sequence[Pair], fidelity: float, lows: Sequence[str]) -> list[Image.Image]:
    return [
        pipeline(lr, fidelity=fidelity, seed=i, low_prompt=low, prompt="", scale=hr.width / lr.width).image
        for i, ((hr, lr, _), low) in enumerate(zip(pairs, lows, strict=True))
    ]


def measure(images: Sequence[Image.Image], pairs: Sequence[Pair], distances: Sequence[Perceptual]) -> list[float]:
    """The mean of each metric."""

    def of_one(image: Image.Image, original: Image.Image) -> list[float]:
        a, b = levels(image), levels(original)
        scores = [psnr(a, b, channel="y", crop=0), ssim(a, b, channel="y", crop=0)]
        return scores + [distance(a, b) for distance in distances]

    table = [of_one(image, hr) for image, (hr, _, _) in zip(images, pairs, strict=True)]
    return [float(mean) for mean in np.mean(table, axis=0)]


def levels(image: Image.Image) -> NDArray[np.uint8]:
    return np.asarray(image)


def print_row(name: str, row: Sequence[float], bicubic: Sequence[float]) -> None:
    parts = [f"{name:28}"]
    for metric, value, reference in zip(NAMES, row, bicubic, strict=False):
        compared = f"{value - reference:+.3f}" if metric in NAMES[:2] else f"x{value / reference:.3f}"
        parts.append(f"{metric} {value:.4f} ({compared})")
    print("  ".join(parts), flush=True)


if __name__ == "__main__":
    main()
