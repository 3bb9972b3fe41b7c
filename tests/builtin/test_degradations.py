"""The Real-ESRGAN, camera and bicubic degradations, and the sharpening of their input."""

from __future__ import annotations

import math
import pickle
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from xpsr_sdk.builtin import kernels
from xpsr_sdk.builtin.bicubic_degradation import BicubicDegradation
from xpsr_sdk.builtin.camera_degradation import CameraDegradation
from xpsr_sdk.builtin.realesrgan_degradation import (
    Blur,
    DegradationRecord,
    RealESRGANDegradation,
    Sinc,
    StageRecord,
)
from xpsr_sdk.contracts import DegradationModel
from xpsr_sdk.errors import ImageError
from xpsr_sdk.preparation.sharpen import sharpen

ALL = [RealESRGANDegradation, CameraDegradation, BicubicDegradation]
QUIET = {
    "gaussian_probability": 1.0,
    "gaussian_sigma": (0.0, 0.0),
    "resize_weights": (0.0, 0.0, 1.0),
    "blur_probability": 0.0,
    "jpeg_quality": (100, 100),
}


def seeded(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def photo(height: int = 64, width: int = 64, batch: int = 1) -> Tensor:
    """Smooth colours with some edges, like a photo, and different in each image of the batch."""
    coarse = torch.rand(batch, 3, 6, 5, generator=torch.Generator().manual_seed(7))
    image = F.interpolate(coarse, size=(height, width), mode="bicubic").clamp(0, 1)
    image[..., : height // 2, width // 3 : width // 2] *= 0.2
    return image


def realesrgan(first: dict[str, Any], second: dict[str, Any], **options: Any) -> RealESRGANDegradation:
    """Does nothing but what the options ask for."""
    quiet = {"scale": 1, "final_sinc_probability": 0.0, "first": QUIET | first, "second": QUIET | second}
    return RealESRGANDegradation(RealESRGANDegradation.Config.model_validate(quiet | options))


@pytest.fixture(scope="module")
def records() -> list[DegradationRecord]:
    """What the default degradation draws for many images."""
    return draws(RealESRGANDegradation(), 3000)


def draws(model: RealESRGANDegradation, count: int) -> list[DegradationRecord]:
    generator = torch.Generator().manual_seed(0)
    return [model.draw(generator) for _ in range(count)]


def share(of: list[bool]) -> float:
    return sum(of) / len(of)


class TestContract:
    @pytest.mark.parametrize("kind", ALL)
    def test_is_a_degradation_model_with_scale_4(self, kind: Any) -> None:
        assert isinstance(kind(), DegradationModel)
        assert kind().scale == 4

    @pytest.mark.parametrize("kind", ALL)
    @settings(max_examples=25, deadline=None)
    @given(
        scale=st.integers(1, 8),
        rows=st.integers(1, 12),
        columns=st.integers(1, 12),
        batch=st.integers(1, 3),
        seed=st.integers(0, 2**31),
    )
    def test_any_size_gives_8_bit_levels_s_times_smaller(
        self, kind: Any, scale: int, rows: int, columns: int, batch: int, seed: int
    ) -> None:
        hr = photo(rows * scale, columns * scale, batch)
        lr = kind(kind.Config(scale=scale))(hr, seeded(*range(seed, seed + batch)))
        assert lr.shape == (batch, 3, rows, columns)
        assert lr.dtype == hr.dtype
        assert torch.equal(lr, (lr * 255).round().clamp(0, 255) / 255)

    @pytest.mark.parametrize("kind", ALL)
    def test_the_input_is_left_alone(self, kind: Any) -> None:
        hr = photo()
        kind()(hr, seeded(1))
        assert torch.equal(hr, photo())

    @settings(max_examples=10, deadline=None)
    @given(seeds=st.lists(st.integers(0, 2**31), min_size=2, max_size=4, unique=True), data=st.data())
    def test_an_image_depends_on_its_own_generator_alone(self, seeds: list[int], data: st.DataObject) -> None:
        model, hr = RealESRGANDegradation(), photo(batch=len(seeds))
        together = model(hr, seeded(*seeds))
        order = data.draw(st.permutations(range(len(seeds))))
        torch.rand(3)  # the global generator plays no part
        for index in order:
            alone = model(hr[index : index + 1], seeded(seeds[index]))
            assert torch.equal(alone[0], together[index])

    @pytest.mark.parametrize("mode", ["area", "bilinear", "bicubic"])
    def test_the_number_of_threads_plays_no_part(self, mode: Any) -> None:
        # Texture, no noise and little compression, so that a difference in rounding comes through.
        hr = torch.rand(3, 256, 256, generator=seeded(0)[0])
        model, before = realesrgan({}, {}), torch.get_num_threads()
        record = model.draw(seeded(0)[0])
        stage = replace(record.first, blur=Blur("gaussian", 7, (0.5, 0.5), 0.0, 1.0), factor=1.5, mode=mode)
        record = replace(record, first=stage, second=stage, final_mode=mode)
        results = []
        try:
            for threads in (1, 2):
                torch.set_num_threads(threads)
                results.append(model.apply(hr, record, seeded(0)[0]))
        finally:
            torch.set_num_threads(before)
        assert torch.equal(*results)

    def test_other_seeds_give_other_photos(self) -> None:
        one, other = RealESRGANDegradation()(photo().expand(2, -1, -1, -1), seeded(1, 2))
        assert not torch.equal(one, other)

    @pytest.mark.parametrize("kind", ALL)
    def test_survives_the_trip_to_a_worker(self, kind: Any) -> None:
        model = kind(kind.Config(scale=2))
        copy = pickle.loads(pickle.dumps(model))
        assert torch.equal(copy(photo(), seeded(3)), model(photo(), seeded(3)))

    @pytest.mark.parametrize("kind", ALL)
    @pytest.mark.parametrize(
        ("hr", "count", "message"),
        [
            (torch.rand(3, 64, 64), 1, r"shape \(3, 64, 64\).*B x 3 x H x W"),
            (torch.rand(1, 1, 64, 64), 1, r"shape \(1, 64, 64\).*3 x H x W"),
            (torch.zeros(1, 3, 64, 64, dtype=torch.uint8), 1, "torch.uint8.*takes floats"),
            (torch.rand(0, 3, 64, 64), 0, r"shape \(0, 3, 64, 64\)"),
            (torch.rand(1, 3, 64, 62), 1, "64 x 62 pixels.*multiples of the scale, 4"),
            (torch.rand(1, 3, 0, 64), 1, "0 x 64 pixels"),
            (torch.rand(2, 3, 64, 64), 1, "1 generators came with an hr batch of 2 images"),
        ],
    )
    def test_wrong_batches_are_told_what_is_right(self, kind: Any, hr: Tensor, count: int, message: str) -> None:
        with pytest.raises(ImageError, match=message):
            kind()(hr, seeded(*range(count)))


class TestBicubic:
    def test_is_antialiased_bicubic(self) -> None:
        hr = photo(64, 96)
        lr = BicubicDegradation()(hr, seeded(0))
        exact = F.interpolate(hr, size=(16, 24), mode="bicubic", antialias=True).clamp(0, 1)
        assert (lr - exact).abs().max() <= 0.5 / 255 + 1e-6


class TestRecord:
    def test_tells_what_the_batch_got(self) -> None:
        model, hr = RealESRGANDegradation(), photo()
        lr, record = model.degrade_with_record(hr[0], seeded(5)[0])
        assert torch.equal(lr, model(hr, seeded(5))[0])
        assert record == model.draw(seeded(5)[0])

    def test_one_image_only(self) -> None:
        with pytest.raises(ImageError, match="3 x H x W"):
            RealESRGANDegradation().degrade_with_record(photo(), seeded(5)[0])

    def test_default_frequencies_are_the_published_ones(self, records: list[DegradationRecord]) -> None:
        assert share([r.final_sinc is not None for r in records]) == pytest.approx(0.8, abs=0.04)
        assert share([r.jpeg_last for r in records]) == pytest.approx(0.5, abs=0.04)
        expected = {"first": (1.0, 0.2, 0.7, 0.1), "second": (0.8, 0.3, 0.4, 0.3)}
        for name, (blurred, up, down, keep) in expected.items():
            stages: list[StageRecord] = [getattr(r, name) for r in records]
            blurs = [s.blur for s in stages if s.blur]
            assert len(blurs) / len(stages) == pytest.approx(blurred, abs=0.04)
            assert share([isinstance(b, Sinc) for b in blurs]) == pytest.approx(0.1, abs=0.04)
            assert share([s.factor > 1 for s in stages]) == pytest.approx(up, abs=0.04)
            assert share([s.factor < 1 for s in stages]) == pytest.approx(down, abs=0.04)
            assert share([s.factor == 1 for s in stages]) == pytest.approx(keep, abs=0.04)
            assert share([s.noise.kind == "gaussian" for s in stages]) == pytest.approx(0.5, abs=0.04)
            assert share([s.noise.gray for s in stages]) == pytest.approx(0.4, abs=0.04)
            for mode in ("area", "bilinear", "bicubic"):
                assert share([s.mode == mode for s in stages]) == pytest.approx(1 / 3, abs=0.04)

    def test_kernel_families_come_as_often_as_published(self, records: list[DegradationRecord]) -> None:
        blurs = [r.first.blur for r in records if isinstance(r.first.blur, Blur)]
        families = [(b.family, b.sigma[0] == b.sigma[1]) for b in blurs]
        expected = {
            ("gaussian", True): 0.45,
            ("gaussian", False): 0.25,
            ("generalised", True): 0.12,
            ("generalised", False): 0.03,
            ("plateau", True): 0.12,
            ("plateau", False): 0.03,
        }
        for family, probability in expected.items():
            assert share([f == family for f in families]) == pytest.approx(probability, abs=0.04)

    def test_default_ranges_are_the_published_ones(self, records: list[DegradationRecord]) -> None:
        expected = {"first": (3.0, 0.15, 1.5, 30, 3.0), "second": (1.5, 0.3, 1.2, 25, 2.5)}
        for name, (sigma, down, up, gaussian, poisson) in expected.items():
            stages: list[StageRecord] = [getattr(r, name) for r in records]
            assert_spans([x for s in stages if isinstance(s.blur, Blur) for x in s.blur.sigma], 0.2, sigma)
            assert_spans([s.blur.size for s in stages if s.blur], 7, 21)
            assert_spans([s.factor for s in stages], down, up)
            assert_spans([s.noise.level for s in stages if s.noise.kind == "gaussian"], 1, gaussian)
            assert_spans([s.noise.level for s in stages if s.noise.kind == "poisson"], 0.05, poisson)
            assert_spans([s.jpeg_quality for s in stages], 30, 95)
            sincs = [s.blur for s in stages if isinstance(s.blur, Sinc)]
            assert_spans([b.cutoff for b in sincs if b.size < 13], math.pi / 3, math.pi)
            assert_spans([b.cutoff for b in sincs if b.size >= 13], math.pi / 5, math.pi)
        assert_spans([r.final_sinc.cutoff for r in records if r.final_sinc], math.pi / 3, math.pi)
        assert all(r.first.blur and r.first.blur.size % 2 for r in records)

    def test_shapes_lie_within_their_ranges(self, records: list[DegradationRecord]) -> None:
        blurs = [r.first.blur for r in records if isinstance(r.first.blur, Blur)]
        generalised = [b.beta for b in blurs if b.family == "generalised"]
        assert_spans(generalised, 0.5, 4)
        assert share([beta < 1 for beta in generalised]) == pytest.approx(0.5, abs=0.1)
        assert_spans([b.beta for b in blurs if b.family == "plateau"], 1, 2)
        assert_spans([b.angle for b in blurs if b.sigma[0] != b.sigma[1]], -math.pi, math.pi)


def assert_spans(values: list[float] | list[int], low: float, high: float) -> None:
    """All within the range, and reaching within a tenth of both its ends."""
    assert low <= min(values) <= low + 0.1 * (high - low)
    assert high - 0.1 * (high - low) <= max(values) <= high


class TestEffects:
    """Each part alone, told apart by what it does to the picture."""

    def test_nothing_asked_for_changes_next_to_nothing(self) -> None:
        hr = photo()
        lr = realesrgan({}, {})(hr, seeded(0))
        assert (lr - hr).abs().mean() < 4 / 255  # two JPEGs of quality 100

    @pytest.mark.parametrize("gray", [0.0, 1.0])
    def test_gaussian_noise_has_the_asked_level(self, gray: float) -> None:
        noisy = {"gaussian_sigma": (20.0, 20.0), "gray_probability": gray}
        flat = torch.full((1, 3, 128, 128), 0.5)
        lr = realesrgan(noisy, {})(flat, seeded(0))
        gray_level = (lr * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1).std() * 255
        # The weighted sum of three independent channels is calmer than any of them.
        assert gray_level == pytest.approx(20 if gray else 20 * 0.669, rel=0.05)
        assert ((lr[:, 0] - lr[:, 2]).std() * 255 < 3) == bool(gray)

    def test_poisson_noise_is_stronger_in_bright_parts(self) -> None:
        noisy = {"gaussian_probability": 0.0, "poisson_scale": (1.0, 1.0), "gray_probability": 1.0}
        ramp = torch.linspace(0.05, 0.75, 256).expand(1, 3, 256, 256)
        lr = realesrgan(noisy, {})(ramp, seeded(0))
        noise = (lr - ramp).std(dim=(0, 1, 2))
        # 180 levels are 256 photons at full brightness, so the noise is sqrt(brightness / 256).
        assert noise[:32].mean() == pytest.approx(math.sqrt(0.094 / 256), rel=0.15)
        assert noise[-32:].mean() == pytest.approx(math.sqrt(0.706 / 256), rel=0.15)

    @pytest.mark.parametrize("stage", ["first", "second"])
    def test_jpeg_quality_is_the_codec_s(self, stage: str) -> None:
        def error(quality: int) -> float:
            options = {"first": {}, "second": {}, stage: {"jpeg_quality": (quality, quality)}}
            return float((realesrgan(**options)(photo(), seeded(0)) - photo()).square().mean())

        assert error(10) > 2 * error(60) > 2 * error(100)

    @pytest.mark.parametrize("stage", ["first", "second"])
    @pytest.mark.parametrize("family", list(RealESRGANDegradation.Config().kernels.model_dump()))
    def test_more_sigma_is_more_blur(self, stage: str, family: str) -> None:
        weights = dict.fromkeys(RealESRGANDegradation.Config().kernels.model_dump(), 0.0) | {family: 1.0}

        def detail(sigma: float) -> float:
            blurry = {"blur_probability": 1.0, "sinc_probability": 0.0, "sigma": (sigma, sigma)}
            options = {"first": {}, "second": {}, stage: blurry}
            lr = realesrgan(**options, kernels=weights, kernel_sizes=(21, 21))(photo(), seeded(0))
            return float(lr.diff(dim=-1).square().mean())

        assert detail(0.2) > 1.2 * detail(1.0) > 1.2 * detail(3.0)

    def test_sinc_filter_rings_at_an_edge(self) -> None:
        edge = torch.full((1, 3, 64, 64), 0.3)
        edge[..., 32:] = 0.7
        low = (math.pi / 3, math.pi / 3)
        ringing = {"final_sinc_probability": 1.0, "sinc_cutoff": low, "kernel_sizes": (21, 21)}
        lr = realesrgan({}, {}, **ringing)(edge, seeded(0))
        assert lr.max() > 0.72
        assert lr.min() < 0.28

    def test_a_resize_down_loses_detail_for_good(self) -> None:
        small = {"resize_weights": (0.0, 1.0, 0.0), "resize_range": (0.15, 1.0)}
        lr = realesrgan(small, {})(photo(), seeded(3))
        assert lr.diff(dim=-1).square().mean() < 0.7 * photo().diff(dim=-1).square().mean()

    def test_zero_weights_are_never_drawn(self) -> None:
        records = draws(realesrgan({}, {}), 200)
        assert all(r.first.factor == 1 and r.second.blur is None for r in records)


class TestOptions:
    def test_a_partial_second_stage_keeps_its_own_defaults(self) -> None:
        config = RealESRGANDegradation.Config.model_validate({"second": {"gray_probability": 0.1}})
        assert config.second.sigma == (0.2, 1.5)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"scale": 0}, "scale"),
            ({"kernel_sizes": (7, 20)}, "kernel sizes are odd"),
            ({"first": {"sigma": (3.0, 0.2)}}, r"written \(lowest, highest\)"),
            ({"first": {"sigma": (0.0, 1.0)}}, "first.sigma"),
            ({"second": {"jpeg_quality": (30, 101)}}, "second.jpeg_quality"),
            ({"first": {"resize_weights": (0.0, 0.0, 0.0)}}, "at least one weight"),
            (
                {"kernels": dict.fromkeys(RealESRGANDegradation.Config().kernels.model_dump(), 0)},
                "at least one",
            ),
            ({"first": {"resize_range": (1.1, 1.5)}}, "first.resize_range"),
            ({"blur": 3}, "blur"),
        ],
    )
    def test_impossible_ones_are_refused(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(ValidationError, match=message):
            RealESRGANDegradation.Config.model_validate(options)


class TestKernels:
    @given(
        size=st.sampled_from(range(3, 23, 2)),
        sigma=st.tuples(st.floats(0.2, 3), st.floats(0.2, 3)),
        angle=st.floats(-math.pi, math.pi),
        beta=st.floats(0.5, 4),
    )
    def test_gaussian_families_are_averages(
        self, size: int, sigma: tuple[float, float], angle: float, beta: float
    ) -> None:
        for family in (kernels.gaussian, kernels.plateau):
            kernel = family(size, sigma, angle, beta)
            assert kernel.shape == (size, size)
            assert kernel.min() >= 0
            assert float(kernel.sum()) == pytest.approx(1)
            assert float(kernel.max()) == float(kernel[size // 2, size // 2])
            assert torch.allclose(kernel, kernel.rot90(2))

    def test_gaussian_has_the_asked_covariance(self) -> None:
        kernel = kernels.gaussian(61, (4.0, 2.0), math.pi / 6)
        axis = torch.arange(61.0, dtype=torch.float64) - 30
        # Rotation by 30 degrees of diag(16, 4).
        assert float((kernel.sum(0) * axis**2).sum()) == pytest.approx(13, rel=0.01)
        assert float((kernel.sum(1) * axis**2).sum()) == pytest.approx(7, rel=0.01)
        assert float((kernel * axis * axis[:, None]).sum()) == pytest.approx(6 * math.sqrt(3) / 2, rel=0.01)

    def test_sinc_passes_below_its_cutoff_and_stops_above(self) -> None:
        kernel = kernels.sinc(101, math.pi / 2)
        response = torch.fft.fft2(kernel).abs()[0]
        frequency = torch.arange(101) * 2 * math.pi / 101
        assert (response[frequency < 0.4 * math.pi] - 1).abs().max() < 0.1
        assert response[(frequency > 0.6 * math.pi) & (frequency <= math.pi)].max() < 0.1

    @settings(max_examples=25, deadline=None)
    @given(
        height=st.integers(1, 50),
        width=st.integers(1, 50),
        size=st.sampled_from(range(3, 23, 2)),
        seed=st.integers(0, 1000),
    )
    def test_blur_is_the_direct_sum(self, height: int, width: int, size: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        image = torch.rand(3, height, width, generator=generator)
        kernel = torch.rand(size, size, generator=generator)
        kernel /= kernel.sum()
        radius = size // 2
        mode = "reflect" if radius < min(height, width) else "replicate"
        padded = F.pad(image, (radius,) * 4, mode=mode)
        direct = F.conv2d(padded[:, None], kernel.flip(0, 1)[None, None])[:, 0]
        assert torch.allclose(kernels.blur(image, kernel), direct, atol=1e-5)


class TestSharpen:
    def test_edges_get_steeper(self) -> None:
        soft = kernels.blur(photo(), kernels.gaussian(9, (1.5, 1.5)))
        assert sharpen(soft).diff(dim=-1).abs().max() > 1.1 * soft.diff(dim=-1).abs().max()

    def test_faint_texture_is_left_alone(self) -> None:
        faint = 0.5 + 8 / 255 * (torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0)) - 0.5)
        assert torch.allclose(sharpen(faint), faint, atol=1e-6)

    @settings(max_examples=20, deadline=None)
    @given(height=st.integers(1, 70), width=st.integers(1, 70))
    def test_any_size_stays_an_image(self, height: int, width: int) -> None:
        sharp = sharpen(photo(height, width, batch=2))
        assert sharp.shape == (2, 3, height, width)
        assert sharp.min() >= 0
        assert sharp.max() <= 1

    def test_images_of_a_batch_do_not_mix(self) -> None:
        batch = photo(batch=3)
        assert torch.allclose(sharpen(batch)[1], sharpen(batch[1]), atol=1e-6)
