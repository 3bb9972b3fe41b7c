"""The shuffled degradation: its order, its frequencies, what each operation does, and the contract."""

from __future__ import annotations

import math
import pickle
from collections import Counter
from itertools import permutations
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import xpsr_bsrgan
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from xpsr_bsrgan.camera import SensorNoise, draw_sensor_noise
from xpsr_bsrgan.degradation import (
    Blur,
    BSRGANDegradation,
    GaussianNoise,
    Jpeg,
    NearestDownsampling,
    Operation,
    Resize,
)

from xpsr_sdk import ConfigError, ImageError, Registry
from xpsr_sdk.testing import check_degradation_model, check_distribution
from xpsr_sdk.toolkit import Dice


def seeded(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def photo(height: int = 64, width: int = 64, batch: int = 1) -> Tensor:
    """Smooth colours with some edges, different in each image of the batch."""
    coarse = torch.rand(batch, 3, 6, 5, generator=seeded(7)[0])
    image = F.interpolate(coarse, size=(height, width), mode="bicubic").clamp(0, 1)
    image[..., : height // 2, width // 3 : width // 2] *= 0.2
    return image


def model(**options: Any) -> BSRGANDegradation:
    return BSRGANDegradation(BSRGANDegradation.Config.model_validate(options))


@pytest.fixture(scope="module")
def records() -> list[list[Operation]]:
    """What the default degradation draws for many images."""
    generator = seeded(0)[0]
    return [model().draw(generator) for _ in range(3000)]


def share(of: list[bool]) -> float:
    return sum(of) / len(of)


def kinds(record: list[Operation]) -> list[str]:
    """The operations by name; blurs, resizes and JPEGs told apart."""
    names = []
    for operation in record:
        name = type(operation).__name__
        if isinstance(operation, Blur):
            name = "isotropic" if operation.sigma[0] == operation.sigma[1] else "anisotropic"
        names.append("first resize" if name == "NearestDownsampling" else name)
    return names


class TestContract:
    def test_the_registry_offers_it(self) -> None:
        assert isinstance(Registry([xpsr_bsrgan]).create("degradation_model", "bsrgan"), BSRGANDegradation)

    def test_the_kit_finds_nothing(self) -> None:
        check_degradation_model("bsrgan", Registry([xpsr_bsrgan]))
        check_degradation_model({"name": "bsrgan", "camera_probability": 1.0, "scale": 2}, Registry([xpsr_bsrgan]))
        check_distribution("xpsr-bsrgan")

    @settings(max_examples=40, deadline=None)
    @given(
        scale=st.sampled_from([1, 2, 3, 4, 8]),
        rows=st.integers(1, 9),
        columns=st.integers(1, 9),
        seed=st.integers(0, 2**32),
    )
    def test_any_size_gives_an_image_of_the_right_size(self, scale: int, rows: int, columns: int, seed: int) -> None:
        options = {"scale": scale, "camera_probability": 1.0}
        lr = model(**options)(photo(rows * scale, columns * scale), seeded(seed))
        assert lr.shape == (1, 3, rows, columns)
        levels = lr * 255
        assert 0 <= levels.min() <= levels.max() <= 255
        torch.testing.assert_close(levels, levels.round(), atol=1e-3, rtol=0)

    def test_an_image_depends_on_its_own_generator_alone(self) -> None:
        hr = photo(batch=3)
        both = model()(hr, seeded(1, 2, 3))
        assert torch.equal(both[1:2], model()(hr[1:2], seeded(2)))
        assert not torch.equal(both[1:2], model()(hr[1:2], seeded(4)))

    def test_survives_the_trip_to_a_worker(self) -> None:
        copy = pickle.loads(pickle.dumps(model(scale=2)))
        assert torch.equal(copy(photo(), seeded(3)), model(scale=2)(photo(), seeded(3)))

    def test_the_record_tells_what_was_done(self) -> None:
        lr, record = model().degrade_with_record(photo()[0], seeded(5)[0])
        assert record == model().draw(seeded(5)[0])
        assert torch.equal(lr, model()(photo(), seeded(5))[0])

    def test_wrong_sides_are_told(self) -> None:
        with pytest.raises(ImageError, match="64 x 62 pixels; both must be positive multiples of the scale, 4"):
            model()(photo(64, 62), seeded(0))


class TestShuffle:
    def test_every_order_of_the_two_blurs_and_the_noise_comes_as_often(self, records: list[list[Operation]]) -> None:
        parts = ("isotropic", "anisotropic", "GaussianNoise")
        orders = Counter(tuple(name for name in kinds(record) if name in parts) for record in records)
        assert set(orders) == set(permutations(parts))
        assert all(count / len(records) == pytest.approx(1 / 6, abs=0.03) for count in orders.values())

    def test_every_operation_comes_at_every_place(self, records: list[list[Operation]]) -> None:
        whole = [record[:-1] for record in records if len(record) == 8 and not _halved(record)]
        assert len(whole) > 300
        for kind in (GaussianNoise, SensorNoise, Jpeg):
            places = Counter(next(i for i, o in enumerate(r) if isinstance(o, kind)) for r in whole)
            assert all(places[i] / len(whole) == pytest.approx(1 / 7, abs=0.05) for i in range(7)), kind

    def test_the_last_resize_gives_the_final_size_and_a_jpeg_comes_last(self, records: list[list[Operation]]) -> None:
        for record in records:
            resizes = [o for o in record if isinstance(o, Resize | NearestDownsampling)]
            assert isinstance(resizes[-1], Resize)
            assert resizes[-1].share == 1 / 4
            assert isinstance(record[-1], Jpeg)

    def test_default_frequencies_are_the_published_ones(self, records: list[list[Operation]]) -> None:
        def holds(kind: type) -> float:
            return share([any(isinstance(o, kind) for o in record[:-1]) for record in records])

        assert holds(Jpeg) == pytest.approx(0.9, abs=0.03)
        assert holds(SensorNoise) == pytest.approx(0.25, abs=0.03)
        assert holds(NearestDownsampling) == pytest.approx(0.25, abs=0.03)
        assert share([_halved(record) for record in records]) == pytest.approx(0.25, abs=0.03)

    def test_default_ranges_are_the_published_ones(self, records: list[list[Operation]]) -> None:
        of_all = [operation for record in records for operation in record]
        blurs = [o for o in of_all if isinstance(o, Blur)]
        spans(
            {
                (0.1, 2.8): [b.sigma[0] for b in blurs if b.sigma[0] == b.sigma[1]],
                (0.5**0.5, 8**0.5): [s for b in blurs if b.sigma[0] != b.sigma[1] for s in b.sigma],
                (0.0, math.pi): [b.angle for b in blurs if b.sigma[0] != b.sigma[1]],
                (7, 21): [b.size for b in blurs],
                (30, 95): [o.quality for o in of_all if isinstance(o, Jpeg)],
                (1 / 8, 1.0): [r[0].share for r in map(_resizes, records) if len(r) == 2],
            }
        )

    @pytest.mark.parametrize(("kind", "rank"), [("gray", 1), ("color", 3), ("general", 3)])
    def test_noise_has_the_asked_level_and_correlation(self, kind: str, rank: int) -> None:
        noisy = model(noise_kinds={"general": 0, "color": 0, "gray": 0} | {kind: 1}, noise_level=[20, 20])
        generator = seeded(3)[0]
        (noise,) = (o for o in noisy.draw(generator) if isinstance(o, GaussianNoise))
        residual = (noise(torch.full((3, 128, 128), 0.5), generator) - 0.5).flatten(1) * 255
        assert residual.std(1).tolist() == pytest.approx([20, 20, 20], rel=0.05)
        assert int(torch.linalg.matrix_rank(residual.cov(), rtol=1e-3)) == rank
        correlation = residual.corrcoef().fill_diagonal_(0).abs().max()
        assert (correlation > 0.05) == (kind != "color")


def _halved(record: list[Operation]) -> bool:
    return len(_resizes(record)) + sum(isinstance(o, NearestDownsampling) for o in record) == 3


def _resizes(record: list[Operation]) -> list[Resize]:
    return [operation for operation in record if isinstance(operation, Resize)]


def spans(ranges: dict[tuple[float, float], list[Any]]) -> None:
    """All within the range, and reaching within a tenth of both its ends."""
    for (low, high), values in ranges.items():
        assert low <= min(values) <= low + 0.1 * (high - low)
        assert high - 0.1 * (high - low) <= max(values) <= high


class TestOperations:
    @pytest.mark.parametrize("stride", [2, 3, 4])
    def test_nearest_downsampling_keeps_the_picture_in_its_place(self, stride: int) -> None:
        ramp = torch.linspace(0, 1, 48 * stride).expand(3, 48 * stride, -1)
        small = NearestDownsampling(stride, 0.8)(ramp, seeded(0)[0])
        exact = F.avg_pool2d(ramp, stride)
        inside = slice(12, -12)  # away from the reflected borders
        torch.testing.assert_close(small[:, inside, inside], exact[:, inside, inside], atol=1e-4, rtol=0)

    def test_a_quiet_camera_changes_little(self) -> None:
        camera = SensorNoise((0.25,) * 4, brightness=1.25, red=2.0, blue=1.7, shot=0.0, read=0.0)
        smooth = F.interpolate(torch.rand(1, 3, 3, 3, generator=seeded(1)[0]), (63, 65), mode="bicubic")[0]
        smooth = smooth.clamp(0.1, 0.7)
        assert (camera(smooth, seeded(0)[0]) - smooth).abs().mean() < 0.01

    def test_a_camera_is_noisier_in_the_sensor_s_bright_parts(self) -> None:
        camera = SensorNoise((0.25,) * 4, brightness=1.25, red=2.0, blue=1.7, shot=0.01, read=0.0)
        dark, bright = (camera._mosaic(camera._undevelop(torch.full((3, 64, 64), x))).mean() for x in (0.2, 0.6))
        noise = [(camera(torch.full((3, 64, 64), x), seeded(0)[0]) - x).std() for x in (0.02, 0.6)]
        assert dark < bright
        assert noise[0] < noise[1]

    def test_camera_draws_lie_in_the_published_ranges(self) -> None:
        dice = Dice(seeded(0)[0])
        cameras = [draw_sensor_noise(dice) for _ in range(500)]
        spans({(1.9, 2.4): [c.red for c in cameras], (1.5, 1.9): [c.blue for c in cameras]})
        assert all(1e-4 <= c.shot <= 0.012 and c.read > 0 for c in cameras)
        assert all(sum(c.cameras) == pytest.approx(1) for c in cameras)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": 0}, "scale"),
        ({"kernel_sizes": [7, 20]}, "kernel sizes are odd"),
        ({"isotropic_sigma": [2, 1]}, r"written \(lowest, highest\)"),
        ({"noise_kinds": {"general": 0, "color": 0, "gray": 0}}, "at least one weight"),
        ({"jpeg_quality": [0, 50]}, "jpeg_quality"),
        ({"camera_probability": 1.5}, "camera_probability"),
        ({"isp": 0.5}, "isp"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Registry([xpsr_bsrgan]).create("degradation_model", {"name": "bsrgan", **options})
