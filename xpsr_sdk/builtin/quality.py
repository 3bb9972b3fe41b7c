"""Blind estimates of a photo's quality: blur, noise, JPEG compression, contrast, exposure.

Everything is measured in the image itself, in numpy, with the estimators of these papers:

- noise: Immerkaer, "Fast noise variance estimation", CVIU 64(2), 1996, on the calmer half of the blocks, so that
  texture counts less;
- blur: Zhuo and Sim, "Defocus map estimation from a single image", Pattern Recognition 44(9), 2011: how much
  the gradient at an edge falls when the image is blurred once more, which gives the edge's own Gaussian sigma;
- JPEG: Fan and de Queiroz, "Identification of bitmap compression history: JPEG detection and quantizer
  estimation", IEEE TIP 12(2), 2003: DCT coefficients of a decoded JPEG sit on multiples of its quantiser steps;
  the grid is found by the jump across block borders of Wang, Sheikh and Bovik, "No-reference perceptual
  quality assessment of JPEG compressed images", ICIP 2002.

``python tests/benchmarks/quality_estimators.py FOLDER`` prints how well they agree with known degradations.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

MAX_PIXELS = 2_000_000
"""Larger images are measured on crops."""
CROP = 256
"""Side of a crop, pixels; a multiple of 8, so that a JPEG's grid stays where it is."""

LUMA: Array = np.array([0.299, 0.587, 0.114], dtype=np.float32)
RED_DIFFERENCE: Array = np.array([0.5, -0.4187, -0.0813], dtype=np.float32)


@dataclass(frozen=True)
class Quality:
    """What is measured in an image.

    Attributes:
        noise: Standard deviation of the luma noise, in gray levels of 255.
        chroma_noise: The same of the red difference (Cr).
        blur: Gaussian sigma of the edges, in pixels; NaN where there is no edge.
        jpeg_quality: Quality 1 to 100 of the last JPEG compression; 100 where no trace of one is found.
        contrast: Standard deviation of the luma, in gray levels of 255.
        brightness: Mean of the luma, 0 to 255.
    """

    noise: float
    chroma_noise: float
    blur: float
    jpeg_quality: float
    contrast: float
    brightness: float


def measure(pixels: NDArray[np.uint8]) -> Quality:
    """Measure an image.

    Args:
        pixels: H W 3, RGB, 0 to 255, of any size from 1 x 1 on; an estimate that the size does not allow is the
            one of a perfect image.
    """
    luma = (pixels @ LUMA).astype(np.float32)
    parts = [_measure(pixels[window]) for window in _windows(*luma.shape)]
    columns = {f.name: np.array([getattr(part, f.name) for part in parts]) for f in fields(Quality)}
    sharp = columns["blur"][np.isfinite(columns["blur"])]
    middle = {name: float(np.median(values)) for name, values in columns.items()}
    middle["blur"] = float(np.median(sharp)) if sharp.size else float("nan")
    return Quality(**(middle | {"contrast": float(luma.std()), "brightness": float(luma.mean())}))


def _windows(height: int, width: int) -> list[tuple[slice, slice]]:
    """The whole image, or nine crops spread over a large one."""
    if height * width <= MAX_PIXELS:
        return [(slice(0, height), slice(0, width))]

    def starts(length: int) -> list[int]:
        return [int(round(at * max(length - CROP, 0) / 8)) * 8 for at in (0.0, 0.5, 1.0)]

    tops, lefts = sorted({s // 1 for s in starts(height)}), sorted({s // 1 for s in starts(width)})
    return [(slice(top, top + CROP), slice(left, left + CROP)) for top in tops for left in lefts]


def _measure(pixels: NDArray[np.uint8]) -> Quality:
    luma = (pixels @ LUMA).astype(np.float32)
    return Quality(
        noise=noise_level(luma),
        chroma_noise=noise_level((pixels @ RED_DIFFERENCE).astype(np.float32)),
        blur=blur_sigma(luma),
        jpeg_quality=jpeg_quality(luma),
        contrast=float(luma.std()),
        brightness=float(luma.mean()),
    )


def noise_level(channel: Array) -> float:
    """Standard deviation of the noise in a channel, H W, in its own units (Immerkaer 1996).

    The Laplacian difference kernel has gain 6 on white noise. Its RMS is taken in blocks, and the lower half of them is
    averaged: texture lifts a block, and noise lifts them all.
    """
    if min(channel.shape) < 10:
        return 0.0
    rows = channel[2:] - 2 * channel[1:-1] + channel[:-2]
    response = rows[:, 2:] - 2 * rows[:, 1:-1] + rows[:, :-2]
    power = _blocks(response).astype(np.float32) ** 2
    unclipped = np.abs(_blocks(channel[1:-1, 1:-1]).mean(axis=(1, 2)) - 127.5) < 125
    rms = np.sort(np.sqrt(power.mean(axis=(1, 2)))[unclipped]) / 6
    return float(rms[: (rms.size + 1) // 2].mean()) if rms.size else 0.0


def blur_sigma(luma: Array, prefilter: float = 0.7, reblur: float = 1.0) -> float:
    """Gaussian sigma of an image's edges in pixels (Zhuo and Sim 2011); NaN where there is no edge.

    At a step edge of width s the gradient is proportional to 1/s, so the ratio of the gradients before and after
    another blur gives s. A small blur before everything, subtracted from the result, keeps noise down.
    """
    if min(luma.shape) < 8:
        return float("nan")
    smooth = gaussian(luma, prefilter)
    before, after = _gradient(smooth), _gradient(gaussian(smooth, reblur))
    inner = before[1:-1, 1:-1]
    neighbours = [before[1 + dy : before.shape[0] - 1 + dy, 1 + dx : before.shape[1] - 1 + dx]
                  for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    crest = (inner >= np.sort(np.stack(neighbours), axis=0)[-3]) & (inner > 2)
    if not crest.any():
        return float("nan")
    strong = crest & (inner >= np.quantile(inner[crest], 0.8))
    ratio = np.maximum(inner[strong] / np.maximum(after[1:-1, 1:-1][strong], 1e-3), 1.001)
    width = reblur**2 / (ratio**2 - 1)
    return float(np.sqrt(max(np.median(width) - prefilter**2, 0.0)))


def gaussian(image: Array, sigma: float) -> Array:
    """Blur an image, H W, by a Gaussian of that sigma in pixels; edges are repeated."""
    radius = int(np.ceil(3 * sigma))
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2).astype(np.float32)
    taps /= taps.sum()
    padded = np.pad(image, radius, mode="edge")
    rows = sum(tap * padded[i : i + image.shape[0]] for i, tap in enumerate(taps))
    return np.asarray(sum(tap * rows[:, i : i + image.shape[1]] for i, tap in enumerate(taps)), dtype=np.float32)


def _gradient(image: Array) -> Array:
    """Gradient magnitude, H W, by central differences."""
    padded = np.pad(image, 1, mode="edge")
    dy, dx = padded[2:, 1:-1] - padded[:-2, 1:-1], padded[1:-1, 2:] - padded[1:-1, :-2]
    return np.asarray(np.hypot(dy, dx) / 2, dtype=np.float32)


def _blocks(image: Array, size: int = 8) -> Array:
    """The whole 8 x 8 blocks of an image: N 8 8."""
    height, width = (length // size * size for length in image.shape)
    grid = image[:height, :width].reshape(height // size, size, width // size, size)
    return grid.swapaxes(1, 2).reshape(-1, size, size)


def _dct_matrix() -> Array:
    k, n = np.arange(8)[:, None], np.arange(8)[None, :]
    matrix = np.sqrt(2 / 8) * np.cos(np.pi * (2 * n + 1) * k / 16)
    matrix[0] /= np.sqrt(2)
    return matrix.astype(np.float32)


DCT: Array = _dct_matrix()
# The luma quantisation table of ITU-T T.81 (JPEG), Annex K, which libjpeg scales by its quality setting.
ANNEX_K: Array = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ],
    dtype=np.float32,
)
QUALITIES = np.arange(6, 97, 3)
# Low frequencies: the ones whose coefficients are seldom quantised to zero; not DC, whose values are always spread.
LOW = np.add.outer(np.arange(8), np.arange(8))
LOW_FREQUENCIES = (LOW > 0) & (LOW < 5)


def quantisation_table(quality: float) -> Array:
    """The luma steps, 8 8, of libjpeg at a quality of 1 to 100."""
    percent = 5000 / quality if quality < 50 else 200 - 2 * quality
    return np.clip(np.floor((ANNEX_K * percent + 50) / 100), 1, 255).astype(np.float32)


def jpeg_quality(luma: Array, significance: float = 6.0) -> float:
    """Quality of the JPEG compression that an image, H W in 0 to 255, was last decoded from; 100: none is found.

    For each quality: do the DCT coefficients sit on multiples of its steps? The score is a z-value, 0 on average for
    coefficients that know nothing of the steps (Fan and de Queiroz 2003).
    """
    scores = [
        _step_scores(_blocks(luma[top:, left:])) for top, left in {(0, 0), (_grid_offset(luma), _grid_offset(luma.T))}
    ]
    best = max(scores, key=lambda score: float(score.max()))
    return float(QUALITIES[best.argmax()]) if best.max() > significance else 100.0


def _step_scores(blocks: Array) -> Array:
    """For each of QUALITIES, how far beyond chance the blocks' coefficients lie on multiples of its steps."""
    coefficients = (DCT @ (blocks - 128) @ DCT.T)[:, LOW_FREQUENCIES]
    scores = np.zeros(len(QUALITIES), dtype=np.float32)
    for i, quality in enumerate(QUALITIES):
        multiples = coefficients / quantisation_table(float(quality))[LOW_FREQUENCIES]
        multiples = multiples[np.abs(multiples) > 0.5]
        scores[i] = np.cos(2 * np.pi * multiples).sum() / np.sqrt(max(multiples.size, 1) / 2)
    return scores


def _grid_offset(luma: Array) -> int:
    """The row, 0 to 7, at which 8 x 8 blocks begin: where the jump between rows stands out most."""
    jumps = np.abs(np.diff(luma, axis=0)).mean(axis=1)
    strength = [float(jumps[(offset - 1) % 8 :: 8].mean()) if jumps.size >= 8 else 0.0 for offset in range(8)]
    return int(np.argmax(strength))
