"""PSNR and SSIM: against figures worked out by hand or written out naively, and their properties."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from xpsr_sdk.builtin.niqe import Niqe
from xpsr_sdk.builtin.pixel_metrics import Psnr, Ssim, SsimOptions
from xpsr_sdk.builtin.pixel_metrics import luma as luma_of
from xpsr_sdk.errors import ImageError
from xpsr_sdk.evaluation.metrics import psnr, ssim

images = arrays.arrays(np.uint8, st.tuples(st.integers(11, 24), st.integers(11, 24), st.just(3)))
channels = st.sampled_from(["y", "rgb"])


def luma(image: np.ndarray) -> np.ndarray:
    return luma_of(torch.from_numpy(image / 255).permute(2, 0, 1)[None])[0].permute(1, 2, 0).numpy()


def noisy(image: np.ndarray, sigma: float, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, sigma, image.shape)
    return np.clip(image + noise, 0, 255).round().astype(np.uint8)


@pytest.mark.parametrize(
    ("rgb", "y"),
    [
        ((0, 0, 0), 16),
        ((255, 255, 255), 235),
        ((255, 0, 0), 81.481),
        ((0, 255, 0), 144.553),
        ((0, 0, 255), 40.966),
    ],
)
def test_luma_is_that_of_matlab(rgb, y):
    assert luma(np.array([[rgb]], np.uint8)).item() == pytest.approx(y, abs=1e-9)


def test_psnr_of_a_known_error():
    a = np.full((8, 9, 3), 100, np.uint8)
    assert psnr(a, a + np.uint8(5), channel="rgb") == pytest.approx(10 * math.log10(255**2 / 25))
    # A gray step of 5 is a step of 5 * 219 / 255 in luma.
    assert psnr(a, a + np.uint8(5), channel="y") == pytest.approx(10 * math.log10(255**2 / (5 * 219 / 255) ** 2))


def test_ssim_is_its_definition_written_out():
    rng = np.random.default_rng(3)
    a = rng.integers(0, 256, (13, 15, 3), np.uint8)
    b = noisy(a, 40)
    x, y = luma(a)[..., 0], luma(b)[..., 0]
    offsets = np.arange(-5, 6)
    window = np.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * 1.5**2))
    window /= window.sum()
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    values = []
    for top in range(3):
        for left in range(5):
            p, q = x[top : top + 11, left : left + 11], y[top : top + 11, left : left + 11]
            mp, mq = (window * p).sum(), (window * q).sum()
            vp, vq = (window * (p - mp) ** 2).sum(), (window * (q - mq) ** 2).sum()
            cov = (window * (p - mp) * (q - mq)).sum()
            values.append((2 * mp * mq + c1) * (2 * cov + c2) / ((mp**2 + mq**2 + c1) * (vp + vq + c2)))
    assert ssim(a, b) == pytest.approx(np.mean(values), abs=1e-9)


@pytest.mark.parametrize("batch", [1, 8])
def test_a_batch_changes_no_figure(batch):
    rng = torch.Generator().manual_seed(0)
    photos = torch.rand(8, 3, 100, 97, generator=rng, dtype=torch.float64)
    others = (photos + 0.1 * torch.rand(photos.shape, generator=rng, dtype=torch.float64)).clamp(0, 1)
    for metric in (Psnr(), Ssim(), Ssim(SsimOptions(as_pyiqa=True)), Niqe()):
        alone = torch.cat([metric.measure(photos[i : i + 1], others[i : i + 1]) for i in range(8)])
        together = torch.cat(
            [metric.measure(*pair) for pair in zip(photos.split(batch), others.split(batch), strict=True)]
        )
        torch.testing.assert_close(together, alone, rtol=1e-12, atol=0)


@given(image=images, channel=channels)
@settings(deadline=None, max_examples=30)
def test_an_image_equals_itself(image, channel):
    assert psnr(image, image, channel=channel) == math.inf
    assert ssim(image, image, channel=channel) == pytest.approx(1)


@given(image=images, channel=channels, seed=st.integers(0, 99))
@settings(deadline=None, max_examples=30)
def test_order_does_not_matter_and_flips_do_not_either(image, channel, seed):
    other = noisy(image, 60, seed)
    for metric in (psnr, ssim):
        score = metric(image, other, channel=channel)
        assert metric(other, image, channel=channel) == pytest.approx(score)
        assert metric(image[::-1, ::-1], other[::-1, ::-1], channel=channel) == pytest.approx(score)


def test_more_noise_scores_lower():
    image = np.tile(np.linspace(40, 210, 32).astype(np.uint8)[None, :, None], (32, 1, 3))
    for metric in (psnr, ssim):
        scores = [metric(image, noisy(image, sigma)) for sigma in (2, 8, 30)]
        assert scores == sorted(scores, reverse=True)


def test_the_crop_hides_a_damaged_border():
    image = np.full((20, 22, 3), 90, np.uint8)
    damaged = image.copy()
    damaged[:4], damaged[:, -4:] = 0, 255
    assert psnr(image, damaged, crop=4) == math.inf
    assert psnr(image, damaged, crop=3) < math.inf
    assert ssim(image, damaged, crop=4) == pytest.approx(1)


@pytest.mark.parametrize(
    ("a", "b", "crop", "words"),
    [
        ((20, 20, 3), (20, 21, 3), 0, "20 x 20 and 21 x 20"),
        ((20, 20), (20, 20), 0, "H W 3"),
        ((20, 20, 3), (20, 20, 3), 10, "leaves nothing"),
        ((20, 20, 3), (20, 20, 3), 5, "at least 11 x 11"),
    ],
)
def test_what_cannot_be_measured_is_said(a, b, crop, words):
    with pytest.raises(ImageError, match=words):
        ssim(np.zeros(a, np.uint8), np.zeros(b, np.uint8), crop=crop)
