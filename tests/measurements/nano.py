"""Every figure of the model card: the shipped model beside bicubic enlargement, Real-ESRGAN x4+ and blends of the two.

    python -m tests.measurements.nano real=DREALSR synthetic=PAIRS --weights FOLDER [--limit N] [-o FILE] [--docs]

Each data set is a folder with LR/ and HR/, whose photos have the same names. The *blend curve* is what anybody gets
without training: alpha * Real-ESRGAN x4+ + (1 - alpha) * bicubic. A model that does not lie beyond it has learned
nothing, so LPIPS and DISTS are compared at the same PSNR-Y. `--docs` writes the tables into the model card and the
README. `--weights` is a folder as `xpsr evaluate --weights` takes it.
"""

from __future__ import annotations

import argparse
import json
import math
import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from rich.progress import track
from torch import Tensor

from xpsr_sdk import Pipeline, Upscaler, build_pipeline, default_registry
from xpsr_sdk.data.files import find_images
from xpsr_sdk.data.images import resize, to_image, to_tensor
from xpsr_sdk.evaluation.choosing import needed_metrics
from xpsr_sdk.evaluation.metrics import psnr, ssim
from xpsr_sdk.evaluation.scoring import mean_figures

METRICS = ("PSNR-Y", "SSIM-Y", "LPIPS", "DISTS", "NIQE", "grid")
ALPHAS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
FIDELITIES = (1.0, 0.0)
STRIDE = 4
"""Pixels a latent of the shipped model."""
ROOT = Path(__file__).parents[2]
DOCS = (ROOT / "README.md", ROOT / "docs" / "reference" / "nano.md")
Scores = dict[str, list[float]]
"""The mean of each metric, by method."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="+", metavar="NAME=FOLDER")
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--limit", type=int, help="photos of each set; every n-th of them, so that all kinds are there")
    parser.add_argument("-o", "--output", type=Path, help="file for the figures")
    parser.add_argument("--docs", action="store_true", help="write the tables into the model card and the README")
    arguments = parser.parse_args()
    methods = Methods(arguments.model)
    scorer = Scorer(arguments.weights)
    figures = {}
    for text in arguments.sets:
        name, _, folder = text.partition("=")
        pairs = find_pairs(Path(folder), arguments.limit)
        figures[f"{len(pairs)} {name}"] = measure(pairs, methods, scorer)
        print(table(figures), flush=True)
    if arguments.output:
        arguments.output.write_text(json.dumps(figures, indent=1), encoding="utf-8")
    if arguments.docs:
        for page in DOCS:
            insert(page, table(figures, short=page.name == "README.md"))


def find_pairs(folder: Path, limit: int | None) -> list[tuple[Path, Path]]:
    """LR and HR file of each photo, spread over the folder."""
    pairs = [(lr, folder / "HR" / lr.name) for lr in find_images(folder / "LR")]
    return pairs[:: max(1, len(pairs) // limit)] if limit else pairs


class Remembering:
    """An upscaler that remembers its last result: every method starts from the same enlarged photo."""

    def __init__(self, upscaler: Upscaler) -> None:
        self.upscaler, self.scale, self.halo = upscaler, upscaler.scale, upscaler.halo
        self.last: tuple[Tensor, Tensor] | None = None

    def upscale(self, images: Tensor) -> Tensor:
        """As the upscaler does it."""
        if self.last is None or self.last[0].dtype != images.dtype or not torch.equal(self.last[0], images):
            self.last = images.clone(), self.upscaler.upscale(images)
        return self.last[1].clone()

    def unload(self) -> None:
        """Forget the result, too."""
        self.last = None
        self.upscaler.unload()


class Methods:
    """What is compared."""

    def __init__(self, model: str) -> None:
        upscaler = Remembering(default_registry().create("upscaler", "realesrgan-x4plus"))
        self.pipeline: Pipeline = build_pipeline(model=model, upscaler=upscaler)
        self.prior: Pipeline = build_pipeline(model="none", upscaler=upscaler)

    def run(
        self, photo: Image.Image, another: str, size: tuple[int, int], seed: int
    ) -> tuple[dict[str, Image.Image], str]:
        """The photo by each method, and its low-level prompt; ``another``: the prompt of another photo."""
        bicubic, prior = resize(to_tensor(photo), *size[::-1]), to_tensor(self.prior(photo).image)
        images = {f"blend {alpha:g}": to_image(alpha * prior + (1 - alpha) * bicubic) for alpha in ALPHAS}
        default = self.pipeline(photo, seed=seed)
        images["default"] = default.image
        for fidelity in FIDELITIES:
            images[f"fidelity {fidelity:g}"] = self.pipeline(photo, seed=seed, fidelity=fidelity).image
        for name, prompt in {"empty": "", "another's": another}.items():
            images[f"prompt {name}"] = self.pipeline(photo, seed=seed, fidelity=1.0, low_prompt=prompt).image
        return images, default.prompts.low or ""


class Scorer:
    """All metrics of a restored photo."""

    def __init__(self, weights: Path) -> None:
        self.distances = needed_metrics(("lpips", "dists", "niqe"), default_registry(), weights=weights)

    def __call__(self, image: Image.Image, original: Image.Image, learned: bool) -> list[float]:
        a, b = np.asarray(image), np.asarray(original)
        distances = mean_figures(self.distances, [(a, b)]).values() if learned else [math.nan] * 3
        return [psnr(a, b, channel="y"), ssim(a, b, channel="y"), *distances, grid(a)]


def grid(image: NDArray[np.uint8], stride: int = STRIDE) -> float:
    """How much stronger luma is at the frequencies of a grid of ``stride`` pixels than beside them; 1: no grid."""
    luma = torch.from_numpy(image.astype(np.float32)).mean(-1)
    rows, columns = (side // (4 * stride) * 4 * stride for side in luma.shape)
    luma = luma[:rows, :columns]
    ratios = [_peaks(lines, stride) for lines in (luma, luma.T)]
    return math.sqrt(ratios[0] * ratios[1])


def _peaks(lines: Tensor, stride: int) -> float:
    power = torch.fft.rfft(lines - lines.mean()).abs().square().mean(0)
    period = lines.shape[-1] // stride
    ratios = []
    for k in range(1, stride // 2 + 1):
        at = k * period
        beside = torch.cat([power[at - 8 : at - 2], power[at + 3 : at + 9]])
        ratios.append(float(power[at] / beside.mean()))
    return math.prod(ratios) ** (1 / len(ratios))


def measure(pairs: list[tuple[Path, Path]], methods: Methods, scorer: Scorer) -> Scores:
    """The mean over the photos."""
    scores: dict[str, list[list[float]]] = defaultdict(list)
    prompt = ""
    for seed, (lr, hr) in enumerate(track(pairs)):
        photo, original = Image.open(lr).convert("RGB"), Image.open(hr).convert("RGB")
        images, prompt = methods.run(photo, prompt, original.size, seed)
        for name, image in {**images, "original": original}.items():
            scores[name].append(scorer(image, original, learned=not name.startswith("prompt")))
    return {name: [float(mean) for mean in np.mean(each, axis=0)] for name, each in scores.items()}


def on_curve(scores: Scores, fidelity: float) -> list[float]:
    """LPIPS and DISTS of the blend curve where its PSNR-Y is ``fidelity``, on the side of Real-ESRGAN.

    Of the top of the curve, if it does not come up to that.
    """
    curve = [scores[f"blend {alpha:g}"] for alpha in ALPHAS]
    top = max(range(len(curve)), key=lambda i: curve[i][0])
    side = curve[top:][::-1]
    return [float(np.interp(fidelity, [p[0] for p in side], [p[i] for p in side])) for i in (2, 3)]


def table(figures: Mapping[str, Scores], short: bool = False) -> str:
    """The figures in Markdown."""
    names = {
        "blend 0": "bicubic",
        "blend 1": "Real-ESRGAN x4+",
        "blend 0.6": "60 % of it, 40 % of bicubic",
        "default": "**nano**",
    }
    names |= {"fidelity 1": "nano, `--fidelity 1`", "fidelity 0": "nano, `--fidelity 0`"}
    if not short:
        names |= {name: name for scores in figures.values() for name in scores if name not in names}
    lines = [f"| photos | | {' | '.join(METRICS)} |", f"|---|---|{'---|' * len(METRICS)}"]
    for photos, scores in figures.items():
        for key, name in names.items():
            if key in scores:
                cells = [_cell(metric, value) for metric, value in zip(METRICS, scores[key], strict=True)]
                lines.append(f"| {photos} | {name} | {' | '.join(cells)} |")
    lines += ["", *(_verdict(photos, scores) for photos, scores in figures.items())]
    return "\n".join(lines)


def _cell(metric: str, value: float) -> str:
    if math.isnan(value):
        return "-"  # not measured
    return f"{value:.2f}" if metric in ("PSNR-Y", "NIQE", "grid") else f"{value:.3f}"


def _verdict(photos: str, scores: Scores) -> str:
    default = scores["default"]
    parts = [
        f"{name} {1 - own / there:+.1%}".replace("+", "")
        for name, own, there in zip(("LPIPS", "DISTS"), default[2:4], on_curve(scores, default[0]), strict=True)
    ]
    gain = scores["fidelity 1"][0] - scores["blend 0"][0]
    beyond = f"On {photos}, nano's {' and '.join(parts)} below the blend curve at its PSNR-Y"
    return f"{beyond}; `--fidelity 1` is {gain:+.2f} dB to bicubic."


def insert(page: Path, text: str) -> None:
    """Put text between the marks of a page."""
    old = page.read_text(encoding="utf-8")
    new = re.sub(
        r"(<!-- figures:begin -->\n).*?(<!-- figures:end -->)", lambda m: f"{m[1]}{text}\n{m[2]}", old, flags=re.S
    )
    page.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()
