"""How far a restoration is, as those see it who wait for it."""

from __future__ import annotations

import pytest

from xpsr_sdk.serving.how_far import HowFar


@pytest.mark.parametrize(("evaluations", "least", "most"), [(1, 0.5, 0.7), (40, 0.1, 0.2)])
def test_the_upscaler_takes_more_of_the_time_where_the_model_is_asked_less(
    evaluations: int, least: float, most: float
) -> None:
    far, shares = HowFar(evaluations), []
    told = [("upscale", 0, 2), ("upscale", 1, 2), ("upscale", 2, 2), ("denoise", 0, 0)]
    for stage, done, total in [*told, ("denoise", evaluations, 1), ("decode", 0, 0)]:
        far.hear(stage, done, total)
        shares.append(far.share)
    assert shares == sorted(shares)
    assert least <= shares[3] <= most
    assert shares[-1] == pytest.approx(0.9)


def test_an_upscaler_alone_is_done_when_it_is_done() -> None:
    far = HowFar(20, upscaler_alone=True)
    far.hear("upscale", 1, 1)
    assert far.share == 0.99


def test_tiles_steps_and_parts_are_counted_in_words() -> None:
    far, words = HowFar(2), []
    for stage, done, total in [
        *[("upscale", 0, 1), ("upscale", 0, 4), ("upscale", 3, 4)],
        *[("denoise", 0, 1), ("denoise", 5, 3), ("regions", 1, 2), ("decode", 0, 0)],
    ]:
        far.hear(stage, done, total)
        words.append(far.words)
    assert words[:-2] == [
        "Enlarging in one tile",
        "Enlarging: tile 1 of 4",
        "Enlarging: tile 4 of 4",
        "Restoring: step 1 of 2",
        "Restoring: step 2 of 2, tile 3 of 3",
    ]
    assert words[-2:] == ["Part 2 of 2: enlarging", "Part 2 of 2: decoding"]
