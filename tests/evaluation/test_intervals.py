"""Bootstrap intervals and paired differences."""

from __future__ import annotations

import math

import numpy as np
import pytest

from xpsr_sdk.evaluation.intervals import mean_interval, paired_difference


def test_the_interval_is_that_of_the_normal_distribution_for_many_photos() -> None:
    values = np.random.default_rng(1).normal(30, 2, 400).tolist()
    found = mean_interval(values)
    half = 1.96 * np.std(values) / 400**0.5
    assert found.mean == pytest.approx(np.mean(values))
    assert [found.low, found.high] == pytest.approx([found.mean - half, found.mean + half], abs=0.05)
    assert mean_interval(values) == found
    assert mean_interval(values, seed=1) != found


@pytest.mark.parametrize("values", [[3.0], [1.0, math.inf]])
def test_one_photo_and_an_infinite_figure_have_no_interval(values: list[float]) -> None:
    found = mean_interval(values)
    assert found.low == found.high == found.mean


def test_wins_follow_the_direction_of_the_metric() -> None:
    first, second = {"a": 1.0, "b": 2.0, "c": 3.0, "d": 9.0}, {"a": 2.0, "b": 1.0, "c": 3.0, "e": 0.0}
    lower = paired_difference(first, second, lower_is_better=True)
    assert (lower.wins, lower.losses, lower.ties) == (1, 1, 1)
    higher = paired_difference({"a": 2.0, "b": 2.0}, {"a": 1.0, "b": 1.5}, lower_is_better=False)
    assert (higher.wins, higher.losses, higher.ties) == (2, 0, 0)
    assert higher.interval.mean == 0.75


def test_equal_infinite_figures_are_a_tie() -> None:
    found = paired_difference({"a": math.inf}, {"a": math.inf}, lower_is_better=False)
    assert (found.interval.mean, found.ties) == (0, 1)


@pytest.mark.filterwarnings("error")
def test_infinite_differences_of_both_signs_have_no_mean() -> None:
    equal = {"a": math.inf, "b": 30.0}, {"a": 30.0, "b": math.inf}
    found = paired_difference(*equal, lower_is_better=False)
    assert math.isnan(found.interval.mean)
    assert (found.wins, found.losses) == (1, 1)
