"""The benchmark compares what it says it compares. (How fast anything is, is no test.)"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from tests.support import tiny
from xpsr_sdk import Pipeline, Registry, build_pipeline
from xpsr_sdk.benchmark import bench, random_model
from xpsr_sdk.benchmark.variants import WORDS, variants
from xpsr_sdk.models.controlnet import XPSRControlNet
from xpsr_sdk.models.fusion import to_published_name
from xpsr_sdk.models.unet import XPSRUNet


@pytest.fixture
def own(tiny_model: Path) -> Pipeline:
    """A pipeline that the test may change."""
    return build_pipeline(model=str(tiny_model), device="cpu")


def test_all_but_the_approximations_give_the_same_photo(own: Pipeline) -> None:
    photos = [bench.picture(24, seed) for seed in (0, 1)]
    settings = {"guidance_scale": 3, "tile": 64, "num_inference_steps": 4, "fidelity": 0}
    runs = {variant.name: bench.run(own, variant, photos, settings) for variant in variants()}
    exact = runs["exact"].results
    for name, run in runs.items():
        same = bench.mean_psnr(run.results, exact) > 60
        assert same == (name not in ("balanced", "fast")), name
        assert run.results[0].plan.images == (1 if name in ("baseline", "one tile a pass") else 2)
    assert runs["fast"].results[0].plan.settings.num_inference_steps == 2


def test_measurements_are_ratios_to_the_first_variant(own: Pipeline) -> None:
    named = {variant.name: variant for variant in variants()}
    told: list[str] = []
    measured = bench.measure(
        own,
        [named["baseline"], named["exact"], named["fast"]],
        size=96,
        batch=1,
        rounds=1,
        settings={"num_inference_steps": 3},
        progress=told.append,
    )
    baseline, exact, fast = measured
    assert baseline.times_baseline == 1
    assert exact.times_baseline == pytest.approx(baseline.seconds / exact.seconds)
    assert (exact.steps, fast.steps) == (3, 2)
    assert exact.share_of_peak is not None
    assert 0 < exact.share_of_peak < 1
    assert fast.share_of_peak is None
    assert fast.psnr_to_exact is not None
    assert told[-1] == "fast"
    assert json.loads(json.dumps(bench.as_records(measured)))[2]["variant"] == "fast"


def test_work_grows_with_steps(own: Pipeline) -> None:
    photo = bench.picture(16, 0)
    few, many = (bench.flops(own, photo, WORDS | {"num_inference_steps": n}) for n in (4, 8))
    assert 1.2 * few < many < 2 * few


def test_all_that_is_computed_is_counted_and_nothing_else(own: Pipeline) -> None:
    photo, settings = bench.picture(16, 0), WORDS | {"num_inference_steps": 2}
    first, again = (bench.flops(own, photo, settings) for _ in range(2))
    assert first == again  # planning, at the first call of a size, is no work
    with sdpa_kernel(SDPBackend.MATH):  # attention as plain matrix multiplications
        assert bench.flops(own, photo, settings) == first


def test_peak_memory_is_seen() -> None:
    with bench.peak_memory(torch.device("cpu")) as peak:
        held = torch.ones(2**26)
        sum(torch.ones(2**22).sum() for _ in range(40))
    assert held.numel() * 4 * 0.9 < peak() < 2**30


def test_the_random_model_has_the_published_size() -> None:
    published = json.loads(Path("tests/fixtures/shapes-sd15.json").read_text())
    with torch.device("meta"), Registry([]).in_force():
        models = {"unet": XPSRUNet(**random_model.UNET), "controlnet": XPSRControlNet(**random_model.CONTROLNET)}
    for part, model in models.items():
        assert {to_published_name(n): list(t.shape) for n, t in model.state_dict().items()} == published[part]


def test_pictures_differ_by_their_seed() -> None:
    first, second = (bench.picture(32, seed) for seed in (0, 1))
    assert first.size == (32, 32)
    assert first.tobytes() != second.tobytes()
    assert first.tobytes() == bench.picture(32, 0).tobytes()
    assert tiny.photo(4, 4).mode == first.mode
