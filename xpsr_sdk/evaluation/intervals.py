"""How sure a mean is: bootstrap intervals of means and of paired differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 2000
SEED = 0
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % bootstrap interval; both ends are the mean itself where there is nothing to draw from."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """One method against another on the photos that both have.

    Attributes:
        interval: Of the figures of the first minus those of the second.
        wins: Photos on which the first is better.
        losses: Photos on which the second is better.
        ties: Photos on which both are equal.
    """

    interval: Interval
    wins: int
    losses: int
    ties: int


def mean_interval(values: Sequence[float], seed: int = SEED) -> Interval:
    """The mean of figures, with the percentile bootstrap interval over photos (Efron, 1979).

    Args:
        values: The figure of each photo; infinite ones count for the mean, and leave no interval. The mean of
            infinite ones of both signs is NaN.
        seed: Of the photos that are drawn. The same figures and seed give the same interval.
    """
    figures = np.asarray(values, dtype=np.float64)
    if len(figures) == 0:
        return Interval(np.nan, np.nan, np.nan)
    with np.errstate(invalid="ignore"):
        mean = float(figures.mean())
    if len(figures) == 1 or not np.isfinite(figures).all():
        return Interval(mean, mean, mean)
    random = np.random.default_rng(seed)
    means = [figures[random.integers(len(figures), size=len(figures))].mean() for _ in range(RESAMPLES)]
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(mean, float(low), float(high))


def paired_difference(
    first: Mapping[str, float], second: Mapping[str, float], *, lower_is_better: bool, seed: int = SEED
) -> Difference:
    """One method against another, by the figures of their photos; photos that only one has are left out."""
    common = [name for name in first if name in second]
    # Of two infinite figures, as of equal images, neither is better.
    differences = [0.0 if first[name] == second[name] else first[name] - second[name] for name in common]
    sign = -1 if lower_is_better else 1
    wins, losses = (sum(side * sign * difference > 0 for difference in differences) for side in (1, -1))
    return Difference(mean_interval(differences, seed), wins, losses, len(differences) - wins - losses)
