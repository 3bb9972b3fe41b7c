"""Estimates a photo's quality without a reference: blur, noise, JPEG compression, contrast, exposure.

Everything is computed from the image alone, in numpy, with the estimators of these papers:

- noise: Immerkaer, "Fast noise variance estimation", Computer Vision and Image Understanding 64(2), 1996. It is
  measured in the smoothest blocks, where no texture hides the noise (Liu, Tanaka and Okutomi, "Single-image noise
  level estimation for blind denoising", IEEE TIP 22(12), 2013);
- blur: Zhuo and Sim, "Defocus map estimation from a single image", Pattern Recognition 44(9), 2011: the Gaussian sigma
  of an edge follows from how much its gradient falls when the image is blurred again;
- JPEG: Fan and de Queiroz, "Identification of bitmap compression history: JPEG detection and quantizer
  estimation", IEEE TIP 12(2), 2003: the DCT coefficients of a decoded JPEG are multiples of the steps of its
  quantisation table. The grid of its blocks is where neighbouring pixels differ most (Wang, Sheikh and Bovik,
  "No-reference perceptual quality assessment of JPEG compressed images", ICIP 2002).

``python tests/measurements/quality_estimators.py FOLDER`` prints how well they agree with known degradations.
For 300 draws of the default degradation, on the 31 photos that nano was not trained on
(docs/reference/nano-sources.md), the rank correlations with the true values were 0.80 for noise, 0.61 for colour noise,
0.61 for blur, and 1.00 for JPEG where it was the last step. (The constants below were chosen with other draws, on
sharpened photos; some of the photos may be the same.)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

CROP = 256
"""Side, in pixels, of the nine crops that are measured in a large image; a multiple of 8, the side of JPEG's blocks."""

LUMA: Array = np.array([0.299, 0.587, 0.114], dtype=np.float32)
CHROMA: Array = np.array([[-0.1687, -0.3313, 0.5], [0.5, -0.4187, -0.0813]], dtype=np.float32)
"""Rows: blue and red difference, Cb and Cr."""

SMOOTH_BLOCKS = {1: (0.05, 1.32), 2: (0.2, 1.39)}
"""For each octave: the quantile of the blocks that is taken as the noise, and the standard deviation of white noise
divided by that quantile. Colour has less texture than luma, so that more of its blocks are smooth."""
NOISE_AT_CREST = 3.0
"""The power of noise at the sharpest edges, relative to elsewhere. It was measured on degraded photos."""


@dataclass(frozen=True)
class Quality:
    """The measured quality of an image.

    Attributes:
        noise: Standard deviation of the luma noise, in gray levels of 255.
        chroma_noise: The same for the colour differences, the mean of Cb and Cr.
        blur: Gaussian sigma of the edges, in pixels; NaN if there is no edge.
        jpeg_quality: Quality, 1 to 100, of the last JPEG compression; 100 if no trace of one is found.
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
        pixels: H W 3, RGB, 0 to 255, of any size from 1 x 1 on. If the image is too small, the estimate is that of a
            perfect image.
    """
    height, width, _ = pixels.shape
    if height * width <= 9 * CROP**2:
        return _measure(pixels)
    tops, lefts = _starts(height), _starts(width)
    parts = [_measure(pixels[top : top + CROP, left : left + CROP]) for top in tops for left in lefts]
    thinned = pixels[:: height // CROP + 1, :: width // CROP + 1] @ LUMA

    def middle(name: str) -> float:
        values = [value for value in (getattr(part, name) for part in parts) if not np.isnan(value)]
        return float(np.median(values)) if values else float("nan")

    local = {name: middle(name) for name in ("noise", "chroma_noise", "blur", "jpeg_quality")}
    return Quality(**local, contrast=float(thinned.std()), brightness=float(thinned.mean()))


def _starts(length: int) -> list[int]:
    """Where the crops along a side begin: at both ends and in the middle, on the grid of JPEG's blocks."""
    return sorted({int(max(length - CROP, 0) * share) // 8 * 8 for share in (0.0, 0.5, 1.0)})


def _measure(pixels: NDArray[np.uint8]) -> Quality:
    luma = np.asarray(pixels @ LUMA, dtype=np.float32)
    chroma = np.asarray(pixels @ CHROMA.T, dtype=np.float32)
    noise = noise_level(luma, octave=1)
    return Quality(
        noise=noise,
        # Codecs store colour at half the resolution and quantise it more, so a coarser octave is measured.
        chroma_noise=float(np.mean([noise_level(chroma[..., i], octave=2) for i in (0, 1)])),
        blur=blur_sigma(luma, noise),
        jpeg_quality=jpeg_quality(luma),
        contrast=float(luma.std()),
        brightness=float(luma.mean()),
    )


def noise_level(channel: Array, octave: int) -> float:
    """Standard deviation of the noise in a channel, H W, in its own units; exact for white noise.

    The image is first halved ``octave`` times (1 or 2), because resizing and JPEG remove noise from the finest octave
    but leave it in the next. Immerkaer's difference of Laplacians multiplies white noise by 6. Its RMS is taken in
    blocks of 16 x 16 original pixels, of which the smooth ones are used.
    """
    for _ in range(octave):
        channel = _halve(channel)
    if min(channel.shape) < 3:
        return 0.0
    rows = channel[2:] - 2 * channel[1:-1] + channel[:-2]
    response = (rows[:, 2:] - 2 * rows[:, 1:-1] + rows[:, :-2]) / 6
    blocks = _blocks(response, min(16 >> octave, *response.shape))
    quantile, gain = SMOOTH_BLOCKS[octave]
    power = np.quantile(np.square(blocks).mean(axis=(1, 2)), quantile)
    return float(np.sqrt(power)) * (1 << octave) * gain


def _halve(image: Array) -> Array:
    """Means of 2 x 2 pixels."""
    height, width = (length // 2 * 2 for length in image.shape)
    image = image[:height, :width]
    return np.asarray((image[::2, ::2] + image[1::2, ::2] + image[::2, 1::2] + image[1::2, 1::2]) / 4, dtype=np.float32)


def blur_sigma(luma: Array, noise: float = 0.0, reblur: float = 0.7) -> float:
    """Gaussian sigma, in pixels, of an image's sharpest edges (Zhuo and Sim 2011); NaN if it has no edges.

    The squared gradient at a step edge is proportional to 1 / variance, so the variance follows from how much another
    blur reduces it. A first blur reduces noise, and the power of the remaining noise is subtracted.

    Args:
        luma: H W.
        noise: Standard deviation of its noise.
        reblur: Sigma of both blurs, pixels.
    """
    # A central difference is itself a derivative blurred over two pixels, a box of variance 1/3.
    variances = reblur**2 + 1 / 3, 2 * reblur**2 + 1 / 3
    smooth = gaussian(luma, reblur)
    gradients = _gradient(smooth), _gradient(gaussian(smooth, reblur))
    crest = _crest(gradients[0]) & (gradients[0] > 1)
    if not crest.any():
        return float("nan")
    sharpest = crest & (gradients[0] >= np.quantile(gradients[0][crest], 0.95))
    before, after = (
        # This is the power of white noise after a Gaussian blur, raised because pixels are chosen by their gradient.
        max(power - NOISE_AT_CREST * noise**2 / (4 * np.pi * variance**2), 0.1 * power)
        for gradient, variance in zip(gradients, variances, strict=True)
        if (power := float(np.square(gradient[sharpest]).mean()))
    )
    return float(np.sqrt(max(reblur**2 / max(before / after - 1, 1e-3) - variances[0], 0.0)))


def _crest(image: Array) -> NDArray[np.bool_]:
    """Where a pixel is at least as large as both of its neighbours in its row or in its column: H W."""
    padded = np.pad(image, 1, mode="edge")
    beside = np.maximum(padded[1:-1, 2:], padded[1:-1, :-2])
    above = np.maximum(padded[2:, 1:-1], padded[:-2, 1:-1])
    return np.asarray(image >= np.minimum(beside, above))


def gaussian(image: Array, sigma: float) -> Array:
    """Blur an image, H W, by a Gaussian with that sigma in pixels. Pixels at the border are repeated."""
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
    """The complete square blocks of an image: N size size."""
    height, width = (length // size * size for length in image.shape)
    grid = image[:height, :width].reshape(height // size, size, width // size, size)
    return np.asarray(grid.swapaxes(1, 2).reshape(-1, size, size), dtype=np.float32)


def _dct_matrix() -> Array:
    k, n = np.arange(8)[:, None], np.arange(8)[None, :]
    matrix = np.sqrt(2 / 8) * np.cos(np.pi * (2 * n + 1) * k / 16)
    matrix[0] /= np.sqrt(2)
    return np.asarray(matrix, dtype=np.float32)


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
# The frequencies whose coefficients are rarely quantised to zero. DC is left out.
ORDER = np.add.outer(np.arange(8), np.arange(8))
LOW_FREQUENCIES = (ORDER > 0) & (ORDER < 5)


def quantisation_table(quality: float) -> Array:
    """The steps of libjpeg for luma, 8 8, at a quality of 1 to 100."""
    percent = 5000 / quality if quality < 50 else 200 - 2 * quality
    return np.clip(np.floor((ANNEX_K * percent + 50) / 100), 1, 255).astype(np.float32)


def jpeg_quality(luma: Array, significance: float = 6.0) -> float:
    """Quality, 1 to 100, of the JPEG that an image, H W in 0 to 255, was decoded from; 100 if none is found.

    The score of a quality says how close the DCT coefficients are to multiples of its steps. It is a z-value, 0 on
    average for coefficients that are independent of the steps (Fan and de Queiroz 2003).
    """
    corners = {(0, 0), (_grid_offset(luma), _grid_offset(luma.T))}
    scores = [_step_scores(_blocks(luma[top:, left:])) for top, left in sorted(corners)]
    best = max(scores, key=lambda score: float(score.max()))
    return float(QUALITIES[best.argmax()]) if best.max() > significance else 100.0


def _step_scores(blocks: Array) -> Array:
    """For each of QUALITIES, a z-value of how close the coefficients are to multiples of its steps."""
    coefficients = (DCT @ (blocks - 128) @ DCT.T)[:, LOW_FREQUENCIES]
    scores = np.zeros(len(QUALITIES), dtype=np.float32)
    for i, quality in enumerate(QUALITIES):
        multiples = coefficients / quantisation_table(float(quality))[LOW_FREQUENCIES]
        multiples = multiples[np.abs(multiples) > 0.5]
        scores[i] = np.cos(2 * np.pi * multiples).sum() / np.sqrt(max(multiples.size, 1) / 2)
    return scores


def _grid_offset(luma: Array) -> int:
    """The row, 0 to 7, at which 8 x 8 blocks begin: the one with the largest difference to the row above."""
    jumps = np.abs(np.diff(luma, axis=0)).mean(axis=1)
    strength = [float(jumps[(offset - 1) % 8 :: 8].mean()) if jumps.size >= 8 else 0.0 for offset in range(8)]
    return int(np.argmax(strength))
