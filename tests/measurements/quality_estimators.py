"""How well the blind estimates of ``xpsr_sdk.builtin.quality`` agree with known degradations.

    python tests/measurements/quality_estimators.py FOLDER [--draws 300] [--seed 0]

Photos of the folder (and below) go through the default degradation, and the estimates made from the result
alone are compared with the truth, by Spearman's rank correlation:

- noise: standard deviation of the difference to the same draw without noise, JPEG left out of both;
- blur: sigma of the Gaussian that makes the bicubically reduced photo most like that draw without noise;
- JPEG: the quality setting of the second compression, where it is the last operation.

It also prints how often each grade of the prompts occurs.
"""

from __future__ import annotations

import argparse
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from xpsr_sdk.builtin.measured import MeasuredPrompts
from xpsr_sdk.builtin.quality import CHROMA, LUMA, Quality, gaussian, measure
from xpsr_sdk.builtin.realesrgan_degradation import DegradationRecord, RealESRGANDegradation, StageRecord
from xpsr_sdk.contracts import Item

SIDE = 512
"""Of the crop that is degraded, pixels."""
SIGMAS = np.arange(0.0, 4.05, 0.1)
"""Tried for the true blur, pixels."""


@dataclass(frozen=True)
class Truth:
    """What was done to a photo: in gray levels, gray levels, pixels and the codec's quality setting."""

    noise: float
    chroma_noise: float
    blur: float
    jpeg_quality: int
    jpeg_last: bool


def photos(folder: Path, seed: int) -> Iterator[Image.Image]:
    """Random square crops of the folder's photos, without end."""
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in {".png", ".jpg", ".jpeg"})
    rng = random.Random(seed)
    while files:
        with Image.open(rng.choice(files)) as opened:
            if min(opened.size) < SIDE:
                continue
            left, top = (rng.randint(0, length - SIDE) for length in opened.size)
            yield opened.convert("RGB").crop((left, top, left + SIDE, top + SIDE))


def degrade(photo: Image.Image, seed: int) -> tuple[NDArray[np.uint8], Truth]:
    """The degraded photo, 128 x 128 x 3, and the truth about it."""
    model, generator = RealESRGANDegradation(), torch.Generator().manual_seed(seed)
    hr = torch.from_numpy(np.array(photo)).permute(2, 0, 1) / 255
    record = model.draw(generator)
    state = generator.get_state()

    def apply(changed: DegradationRecord) -> NDArray[np.float32]:
        generator.set_state(state)
        return np.asarray(model.apply(hr, changed, generator).permute(1, 2, 0) * 255, dtype=np.float32)

    without_jpeg = changed(record, jpeg_quality=100)
    clean = apply(changed(without_jpeg, noise_level=0))
    noise = apply(without_jpeg) - clean
    truth = Truth(
        noise=float((noise @ LUMA).std()),
        chroma_noise=float((noise @ CHROMA.T).std(axis=(0, 1)).mean()),
        blur=true_blur(photo, clean @ LUMA),
        jpeg_quality=record.second.jpeg_quality,
        jpeg_last=record.jpeg_last,
    )
    return apply(record).round().astype(np.uint8), truth


def changed(
    record: DegradationRecord, jpeg_quality: int | None = None, noise_level: float | None = None
) -> DegradationRecord:
    """The record with another JPEG quality or noise level in both of its stages."""

    def stage(old: StageRecord) -> StageRecord:
        noise = old.noise if noise_level is None else replace(old.noise, level=noise_level)
        return replace(old, noise=noise, jpeg_quality=jpeg_quality or old.jpeg_quality)

    return replace(record, first=stage(record.first), second=stage(record.second))


def true_blur(photo: Image.Image, clean: NDArray[np.float32]) -> float:
    """The Gaussian sigma, pixels, that takes the reduced photo nearest to the degraded one without noise."""
    reduced = np.asarray(photo.resize(clean.shape[::-1], Image.Resampling.BICUBIC), dtype=np.float32) @ LUMA
    errors = [float(np.square((gaussian(reduced, s) if s else reduced) - clean).mean()) for s in SIGMAS]
    return float(SIGMAS[int(np.argmin(errors))])


def rank_correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Spearman's; equal values share their mean rank."""

    def ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
        _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
        last = np.cumsum(counts)
        return np.asarray((last - (counts - 1) / 2)[inverse], dtype=np.float64)

    return float(np.corrcoef(ranks(a), ranks(b))[0, 1])


def report(estimates: list[Quality], truths: list[Truth]) -> None:
    """Print the correlations."""

    def columns(name: str, chosen: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        pairs = [(getattr(e, name), getattr(t, name)) for e, t in zip(estimates, truths, strict=True)]
        both = np.array(pairs, dtype=np.float64)[chosen]
        both = both[np.isfinite(both[:, 0])]
        return both[:, 0], both[:, 1]

    everything = np.ones(len(truths), dtype=np.bool_)
    last = np.array([truth.jpeg_last for truth in truths])
    chosen = {"noise": everything, "chroma_noise": everything, "blur": everything, "jpeg_quality": last}
    for name, which in chosen.items():
        estimated, true = columns(name, which)
        error = np.median(np.abs(estimated - true))
        print(f"{name:13} rank correlation {rank_correlation(estimated, true):.2f}, median error {error:.2f}")
    found = np.array([estimate.jpeg_quality < 100 for estimate in estimates])
    print(f"JPEG found in {found[last].mean():.0%} where it came last, {found[~last].mean():.0%} elsewhere")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--draws", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    source = photos(options.folder, options.seed)
    pairs = [degrade(next(source), options.seed + draw) for draw in range(options.draws)]
    report([measure(pixels) for pixels, _ in pairs], [truth for _, truth in pairs])
    items = [Item(Image.fromarray(pixels)) for pixels, _ in pairs]
    phrases = Counter(
        phrase for prompts in MeasuredPrompts().describe(items, {"low"}) for phrase in (prompts.low or "").split(", ")
    )
    for phrase, count in sorted(phrases.items(), key=lambda entry: entry[0].rstrip(".").split()[::-1]):
        print(f"{count / options.draws:5.0%} {phrase.rstrip('.')}")


if __name__ == "__main__":
    main()
