"""The figures of photos, and of all photos of a method."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class ImageScores:
    """The figures of one image, by metric."""

    name: str
    scores: Mapping[str, float]


@dataclass(frozen=True)
class FolderScores:
    """The figures of the photos of one method.

    Attributes:
        rows: One for each photo that could be read, in the order of the pairs.
        whole: Figures of the whole folder, by metric.
        failures: For each photo that could not be measured, or not by every metric, the reason.
        in_whole: The photos that figures of the whole folder are of, by metric.
    """

    rows: tuple[ImageScores, ...]
    whole: Mapping[str, float]
    failures: Mapping[str, str]
    in_whole: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def values(self, metric: str) -> dict[str, float]:
        """The figures of a metric, by photo; empty for a metric of whole folders."""
        return {row.name: row.scores[metric] for row in self.rows if metric in row.scores}

    def photos(self, metric: str) -> Collection[str]:
        """The photos that the mean of a metric, or its figure of the folder, is of."""
        return self.in_whole.get(metric, ()) if metric in self.whole else self.values(metric).keys()

    def mean(self, metric: str) -> float:
        """The mean over the photos that have a figure, or the figure of the folder; NaN if there is none."""
        if metric in self.whole:
            return self.whole[metric]
        values = self.values(metric).values()
        return sum(values) / len(values) if values else float("nan")
