"""PSNR and SSIM are those of scikit-image, and photos of every form are measured as what they look like."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support import tiny
from xpsr_sdk import evaluate_folders
from xpsr_sdk.evaluation.metrics import psnr, ssim


@pytest.mark.parametrize("size", [(64, 48), (37, 23), (11, 11)])
def test_the_figures_of_scikit_image(size: tuple[int, int]) -> None:
    metrics = pytest.importorskip("skimage.metrics")
    original = np.asarray(tiny.photo(*size))
    noise = np.random.default_rng(0).normal(0, 12, original.shape)
    other = np.clip(original + noise, 0, 255).round().astype(np.uint8)
    assert psnr(original, other, channel="rgb") == pytest.approx(
        metrics.peak_signal_noise_ratio(original, other, data_range=255)
    )
    theirs = metrics.structural_similarity(
        original,
        other,
        channel_axis=2,
        data_range=255,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )
    assert ssim(original, other, channel="rgb") == pytest.approx(theirs, abs=1e-9)


def written(image: Image.Image, file: Path) -> Path:
    image.save(file)
    return file


def test_gray_16_bits_and_alpha_are_measured_as_they_look(tmp_path: Path) -> None:
    photo = tiny.photo(33, 21)
    gray = photo.convert("L")
    deep = Image.fromarray(np.asarray(gray).astype(np.uint16) * 257)
    clear = photo.copy()
    clear.putalpha(Image.new("L", photo.size, 0))
    looks_like = {
        "gray": (gray, gray.convert("RGB")),
        "deep": (deep, gray.convert("RGB")),
        "alpha": (clear, Image.new("RGB", photo.size, "white")),
    }
    for name, (image, expected) in looks_like.items():
        files = written(image, tmp_path / f"{name}.png"), written(expected, tmp_path / f"{name}-rgb.png")
        report = evaluate_folders(*files, metrics=["psnr", "ssim"])
        assert report.means["psnr"] == math.inf, name
        assert report.means["ssim"] == pytest.approx(1), name
