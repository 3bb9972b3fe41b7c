"""How far a restoration is, as its visitor sees it."""

from __future__ import annotations

from typing import Any

import pytest

from xpsr_sdk import PipelineConfig
from xpsr_sdk.web.jobs import Job

NOBODYS: Any = None


@pytest.mark.parametrize(("evaluations", "least", "most"), [(1, 0.5, 0.7), (40, 0.1, 0.2)])
def test_the_upscaler_takes_more_of_the_bar_where_the_model_is_asked_less(
    evaluations: int, least: float, most: float
) -> None:
    job = Job(NOBODYS, PipelineConfig(), {}, "", minutes=1)
    job.plan(evaluations)
    shares = []
    told = [("upscale", 0, 2), ("upscale", 1, 2), ("upscale", 2, 2), ("denoise", 0, 0)]
    for stage, done, total in [*told, ("denoise", evaluations, 1), ("decode", 0, 0)]:
        job.watch(stage, done, total)
        shares.append(job.share)
    assert shares == sorted(shares)
    assert least <= shares[3] <= most
    assert shares[-1] == pytest.approx(0.9)


def test_a_photo_that_is_enlarged_in_one_tile_is_told() -> None:
    job = Job(NOBODYS, PipelineConfig(), {}, "", minutes=1)
    job.plan(1)
    stages = []
    for done, total in [(0, 1), (0, 4), (3, 4)]:
        job.watch("upscale", done, total)
        stages.append(job.stage)
    assert stages == ["Enlarging in one tile", "Enlarging: tile 1 of 4", "Enlarging: tile 4 of 4"]
