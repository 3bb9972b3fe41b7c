"""The measured low-level prompt follows the degradation that a photo went through."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from xpsr_sdk.builtin import quality
from xpsr_sdk.builtin.fixed import FixedPrompts
from xpsr_sdk.builtin.measured import MEASURED_PHRASES, MeasuredPrompts
from xpsr_sdk.contracts import Item, PromptProvider, Prompts

GRADES = ("no", "faint", "mild", "moderate", "strong", "extreme")


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    """128 x 128, sharp and clean: overlapping discs of muted colour, softly shaded."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:512, 0:512]
    canvas = np.full((512, 512, 3), 128.0)
    for _ in range(20):
        cy, cx, radius = rng.uniform((0, 0, 30), (512, 512, 110))
        inside = np.hypot(y - cy, x - cx) < radius
        canvas[inside] = rng.uniform(20, 235) + rng.normal(0, 6, 3) + 0.05 * (x[inside, None] - cx)
    return Image.fromarray(canvas.clip(0, 255).astype(np.uint8)).resize((128, 128), Image.Resampling.BICUBIC)


def with_noise(image: Image.Image, sigma: float, gray: bool = True) -> Image.Image:
    pixels = np.asarray(image).astype(float)
    noise = np.random.default_rng(1).normal(0, sigma, (*pixels.shape[:2], 1 if gray else 3))
    return Image.fromarray((pixels + noise).round().clip(0, 255).astype(np.uint8))


def with_jpeg(image: Image.Image, level: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=level)
    return Image.open(buffer).convert("RGB")


def describe(image: Image.Image) -> str:
    (prompts,) = MeasuredPrompts().describe([Item(image)], {"high", "low"})
    assert prompts.errors == {}
    assert prompts.low is not None
    return prompts.low


def grade(image: Image.Image, of: str) -> int:
    """The place among GRADES of the phrase that ends so."""
    (phrase,) = [phrase for phrase in describe(image).rstrip(".").split(", ") if phrase.endswith(of)]
    return GRADES.index(phrase.split()[0])


def measure(image: Image.Image) -> quality.Quality:
    return quality.measure(np.asarray(image))


def test_a_clean_sharp_photo_reads_as_one(photo: Image.Image) -> None:
    assert grade(photo, " blur") == 0
    assert grade(photo, " noise") == 0
    assert grade(photo, " jpeg artifacts") == 0


@pytest.mark.parametrize("sigma", [1.0, 1.5, 2.5])
def test_blur_is_measured_in_pixels(photo: Image.Image, sigma: float) -> None:
    bands = [quality.gaussian(np.asarray(band, np.float32), sigma) for band in photo.split()]
    blurred = Image.fromarray(np.stack(bands, axis=-1).astype(np.uint8))
    assert measure(blurred).blur == pytest.approx(sigma, rel=0.2)


@pytest.mark.parametrize("sigma", [3.0, 8.0, 20.0])
def test_noise_is_measured_in_gray_levels(photo: Image.Image, sigma: float) -> None:
    assert measure(with_noise(photo, sigma)).noise == pytest.approx(sigma, rel=0.25)


@pytest.mark.parametrize("level", [30, 48, 66, 84])
def test_jpeg_quality_is_read_from_the_coefficients(photo: Image.Image, level: int) -> None:
    assert measure(with_jpeg(with_noise(photo, 4), level)).jpeg_quality == pytest.approx(level, abs=4)


@pytest.mark.parametrize("corner", [(0, 3), (5, 0), (2, 7)])
def test_jpeg_quality_survives_a_crop_off_the_grid(photo: Image.Image, corner: tuple[int, int]) -> None:
    cropped = with_jpeg(with_noise(photo, 4), 40).crop((*corner, 128, 128))
    assert measure(cropped).jpeg_quality == pytest.approx(40, abs=4)


def test_more_degradation_never_reads_as_less(photo: Image.Image) -> None:
    blurs = [grade(photo.filter(ImageFilter.GaussianBlur(s)), " blur") for s in (0.01, 0.4, 0.6, 0.8, 1.0, 2.0)]
    noises = [grade(with_noise(photo, s), " noise") for s in (0, 1, 3, 6, 12, 25)]
    jpegs = [grade(with_jpeg(with_noise(photo, 4), q), " jpeg artifacts") for q in (90, 75, 60, 45, 30, 15)]
    for grades in (blurs, noises, jpegs):
        assert grades == sorted(grades)
        assert grades[-1] == len(GRADES) - 1
        assert len(set(grades)) >= 4


def test_coloured_noise_is_told_from_gray(photo: Image.Image) -> None:
    assert "color noise" in describe(with_noise(photo, 8, gray=False))
    assert "gray noise" in describe(with_noise(photo, 8, gray=True))


def test_exposure_and_contrast(photo: Image.Image) -> None:
    assert "dark exposure" in describe(photo.point(lambda v: v * 0.3))
    assert "bright exposure" in describe(photo.point(lambda v: 155 + v * 0.35))
    assert "low contrast" in describe(photo.point(lambda v: 110 + v * 0.1))


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 70),
    st.integers(1, 70),
    st.integers(0, 2**32 - 1),
    st.sampled_from(["noise", "flat", "gray"]),
)
def test_any_image_gets_one_sentence_of_the_vocabulary(height: int, width: int, seed: int, kind: str) -> None:
    rng = np.random.default_rng(seed)
    shape = {"noise": (height, width, 3), "flat": (1, 1, 3), "gray": (height, width, 1)}[kind]
    pixels = np.broadcast_to(rng.integers(0, 256, shape), (height, width, 3)).astype(np.uint8)
    sentence = describe(Image.fromarray(pixels))
    assert sentence.endswith(".")
    assert set(sentence[:-1].split(", ")) <= set(MEASURED_PHRASES)
    assert sentence == describe(Image.fromarray(pixels))


def test_a_large_photo_reads_as_a_piece_of_it_does(photo: Image.Image) -> None:
    piece = with_noise(photo, 10)
    large = Image.fromarray(np.tile(np.asarray(piece), (12, 12, 1)))
    assert grade(large, " noise") == grade(piece, " noise")
    assert "high resolution" in describe(large)


def test_contract(photo: Image.Image) -> None:
    provider = MeasuredPrompts()
    assert isinstance(provider, PromptProvider)
    assert provider.describe([], {"low"}) == []
    assert provider.describe([Item(photo)], {"high"}) == [Prompts()]
    (prompts,) = provider.describe([Item(photo)], {"high", "low"})
    assert prompts.high is None
    assert prompts.source == {"low": "measured"}
    provider.unload()
    assert provider.describe([Item(photo)], {"high", "low"}) == [prompts]


def test_an_image_that_cannot_be_read_costs_the_others_nothing(photo: Image.Image) -> None:
    broken = Image.new("RGB", (20, 20))
    broken.close()
    first, second = MeasuredPrompts().describe([Item(broken), Item(photo)], {"low"})
    assert first.low is None
    assert "could not be measured" in first.errors["low"]
    assert second.low is not None


def test_fixed_prompts_say_what_they_are_told(photo: Image.Image) -> None:
    provider = FixedPrompts(FixedPrompts.Config(high="a cat", low=""))
    assert isinstance(provider, PromptProvider)
    both = Prompts(high="a cat", low="", source={"high": "fixed", "low": "fixed"})
    assert provider.describe([Item(photo), Item(photo)], {"high", "low"}) == [both, both]
    assert provider.describe([Item(photo)], {"low"}) == [Prompts(low="", source={"low": "fixed"})]
    assert FixedPrompts().describe([Item(photo)], {"high", "low"}) == [Prompts()]
