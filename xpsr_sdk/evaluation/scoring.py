"""Measures the photos of a folder: decoded ahead in threads, in batches of one size, each figure stored at once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from xpsr_sdk.data.images import read_image, sha256_of
from xpsr_sdk.errors import ImageError, WorkerLost, XPSRError, one_line
from xpsr_sdk.evaluation.chosen import ChosenMetric
from xpsr_sdk.evaluation.loading import LoadedPair, as_tensor, batches_of_one_size, loaded_ahead
from xpsr_sdk.evaluation.matching import Pair
from xpsr_sdk.evaluation.metrics import Image
from xpsr_sdk.evaluation.store import ScoreStore, score_key
from xpsr_sdk.runners.work import Done, PartlyFailed, Runner

BATCHES_AT_A_TIME = 8
"""A worker gets so many batches together, and loads the photos of one while it measures another."""
Pairs = tuple[Pair, ...]
"""Photos that a worker gets together."""
Measured = list[LoadedPair]
"""Their figures, without their pixels."""


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


@dataclass(frozen=True)
class ScoringWork:
    """Measures photos with the chosen metrics.

    Attributes:
        metrics: The metrics.
        device: Where to compute.
        batch: How many photos of one size are measured together.
        store: Figures that are known already. Workers add none: that is done where ``score`` was called.
    """

    metrics: Sequence[ChosenMetric]
    device: torch.device
    batch: int
    store: ScoreStore

    @property
    def of_images(self) -> list[ChosenMetric]:
        """The metrics that have a figure for each photo."""
        return [chosen for chosen in self.metrics if not chosen.of_folders]

    @property
    def of_folders(self) -> list[ChosenMetric]:
        """The metrics that have one figure for all photos of a method."""
        return [chosen for chosen in self.metrics if chosen.of_folders]

    @contextmanager
    def warm(self) -> Iterator[Callable[[Pairs], Measured]]:
        """See ``Work``."""
        yield _Measurer(self).measure


def score(
    work: ScoringWork,
    methods: Mapping[str, Sequence[Pair]],
    runner: Runner,
    progress: Callable[[int, int], object] | None = None,
    on_failure: Callable[[Path, str], object] | None = None,
) -> dict[str, FolderScores]:
    """Measure the photos of each method. A bad file is no error: it is among the failures of the result."""
    size = work.batch * BATCHES_AT_A_TIME
    parts = (tuple(pairs[first : first + size]) for pairs in methods.values() for first in range(0, len(pairs), size))
    measured: dict[Pair, LoadedPair] = {}
    total, count = sum(map(len, methods.values())), 0
    with closing(work.store), closing(runner.run(work, parts)) as results:
        for done in results:
            for photo in _photos_of(done):
                measured[photo.pair] = photo
                _store_figures(work, photo)
                count += 1
                if photo.failures and on_failure:
                    on_failure(photo.pair.pred, photo.failures[0])
                if progress:
                    progress(count, total)
    return {method: _folder_scores(work, [measured[pair] for pair in pairs]) for method, pairs in methods.items()}


def _photos_of(done: Done[Pairs, Measured]) -> Measured:
    """What was measured; if the worker was lost or failed, that is the failure of each photo.

    Raises:
        XPSRError: Something is wrong for all photos.
    """
    if done.error is None or (isinstance(done.error, XPSRError) and not isinstance(done.error, WorkerLost)):
        return done.result()
    return [LoadedPair(pair, failures=[f"{pair.pred}: {done.reason}"], readable=False) for pair in done.given]


def _store_figures(work: ScoringWork, photo: LoadedPair) -> None:
    for chosen in work.of_images:
        if chosen.storable and chosen.name in photo.missing and chosen.name in photo.scores:
            figure = photo.scores[chosen.name]
            work.store.add(photo.missing[chosen.name], figure, metric=chosen.name, photo=photo.pair.name)


def _folder_scores(work: ScoringWork, photos: Sequence[LoadedPair]) -> FolderScores:
    """The figures of a method, and of all its photos together."""
    rows = tuple(ImageScores(photo.pair.name, photo.scores) for photo in photos if photo.readable)
    failures = {photo.pair.name: " ".join(photo.failures) for photo in photos if photo.failures}
    whole: dict[str, float] = {}
    in_whole: dict[str, tuple[str, ...]] = {}
    for chosen in work.of_folders:
        having = [photo for photo in photos if chosen.name in photo.features]
        in_whole[chosen.name] = tuple(photo.pair.name for photo in having)
        features = [photo.features[chosen.name] for photo in having]
        references = [reference for _, reference in features if reference is not None]
        if not having:
            continue
        try:
            own = torch.cat([feature for feature, _ in features])
            whole[chosen.name] = chosen.compare(own, torch.cat(references) if references else None)
        except Exception as error:  # whatever a metric makes of too few photos
            failures[f"all photos, {chosen.name}"] = str(error) if isinstance(error, XPSRError) else one_line(error)
    return FolderScores(rows, whole, failures, in_whole)


class _Measurer:
    """What a worker does with photos."""

    def __init__(self, work: ScoringWork) -> None:
        self._work = work
        self._reference_features: dict[tuple[str, Path | None], Tensor] = {}

    def measure(self, pairs: Pairs) -> Measured:
        """Measure some photos, whose pixels are left behind.

        Raises:
            PartlyFailed: Some failed, and may be measured by another worker: one with more memory, say.
        """
        measured = self._measured(pairs)
        others = [photo for photo in measured if not photo.failures]
        if len(others) < len(measured):
            failed = tuple(photo.pair for photo in measured if photo.failures)
            rest = (tuple(photo.pair for photo in others), others) if others else None
            raise PartlyFailed(measured, failed, rest)
        return measured

    def _measured(self, pairs: Pairs) -> Measured:
        measured: Measured = []
        for group in batches_of_one_size(loaded_ahead(self._load, pairs), self._work.batch):
            for chosen in self._work.of_images:
                self._measure(chosen, [photo for photo in group if chosen.name in photo.missing])
            for photo in group:
                for chosen in self._work.of_folders:
                    self._add_features(chosen, photo)
                photo.image = photo.reference = None
                measured.append(photo)
        return measured

    def _load(self, pair: Pair) -> LoadedPair:
        """What the store knows of a pair, and its pixels if that is not all."""
        photo, work = LoadedPair(pair), self._work
        try:
            digests = [None if path is None else sha256_of(path) for path in (pair.pred, pair.hr)]
            for chosen in work.of_images:
                reference = digests[1] if chosen.metric.needs_reference else None
                key = score_key(chosen.component, chosen.metric.details, chosen.crop, str(digests[0]), reference)
                known = work.store.get(key) if chosen.storable else None
                if known is None:
                    photo.missing[chosen.name] = key
                else:
                    photo.scores[chosen.name] = known
            if photo.missing or work.of_folders:
                self._decode(photo)
        except (XPSRError, OSError) as error:
            photo.readable = False
            photo.failures.append(str(error))
        return photo

    def _decode(self, photo: LoadedPair) -> None:
        pair = photo.pair
        image = np.asarray(read_image(pair.pred).image)
        photo.image = as_tensor(image)
        if pair.hr is None or not any(chosen.metric.needs_reference for chosen in self._work.metrics):
            return
        reference = np.asarray(read_image(pair.hr).image)
        if image.shape != reference.shape:
            raise ImageError(
                f"{pair.pred} has {image.shape[1]} x {image.shape[0]} pixels, but {pair.hr} has "
                f"{reference.shape[1]} x {reference.shape[0]}."
            )
        photo.reference = as_tensor(reference)

    def _measure(self, chosen: ChosenMetric, photos: Sequence[LoadedPair]) -> None:
        """One metric of photos of one size; if the batch fails, one after the other, to find the bad one."""
        ready = [photo for photo in photos if photo.readable and photo.image is not None]
        if not ready:
            return
        failure, figures = "", list[float]()
        try:
            chosen.check_size(*ready[0].size)
            images = self._placed([photo.image for photo in ready])
            references = self._placed([photo.reference for photo in ready]) if chosen.metric.needs_reference else None
            figures = chosen.figures(images, references)
        except (ImageError, torch.OutOfMemoryError) as error:
            failure = str(error)
        # Not within the except clause: the error would keep the memory of the batch.
        if failure and len(ready) > 1:
            for photo in ready:
                self._measure(chosen, [photo])
            return
        if failure:
            ready[0].failures.append(f"{ready[0].pair.pred}: {failure}")
            return
        for photo, figure in zip(ready, figures, strict=True):
            photo.scores[chosen.name] = figure

    def _add_features(self, chosen: ChosenMetric, photo: LoadedPair) -> None:
        if photo.image is None or not photo.readable:
            return
        try:
            chosen.check_size(*photo.size)
            own = chosen.features(self._placed([photo.image]))
            photo.features[chosen.name] = own, self._features_of_reference(chosen, photo)
        except (ImageError, torch.OutOfMemoryError) as error:
            photo.failures.append(f"{photo.pair.pred}: {error}")

    def _features_of_reference(self, chosen: ChosenMetric, photo: LoadedPair) -> Tensor | None:
        """Those of a photo that several methods restored are computed once."""
        if photo.reference is None:
            return None
        key = chosen.name, photo.pair.hr
        if key not in self._reference_features:
            self._reference_features[key] = chosen.features(self._placed([photo.reference]))
        return self._reference_features[key]

    def _placed(self, photos: Sequence[Tensor | None]) -> Tensor:
        """Photos of one size as a batch in [0, 1] on the device, in float64 where it has that."""
        device = self._work.device
        dtype = torch.float32 if device.type == "mps" else torch.float64
        return torch.cat([photo for photo in photos if photo is not None]).to(device).to(dtype) / 255


def mean_figures(metrics: Sequence[ChosenMetric], pairs: Sequence[tuple[Image, Image]]) -> dict[str, float]:
    """The mean of each metric over photos at hand, or its figure of them all.

    Args:
        metrics: The metrics.
        pairs: Restored photos and their references, H W 3, RGB, in [0, 255].

    Raises:
        ImageError: A metric cannot measure one of them.
    """
    tensors = [(as_tensor(image).double() / 255, as_tensor(reference).double() / 255) for image, reference in pairs]
    means = {}
    for chosen in metrics:
        for image, _ in tensors:
            chosen.check_size(image.shape[3], image.shape[2])
        if chosen.of_folders:
            own, others = (torch.cat([chosen.features(pair[i]) for pair in tensors]) for i in (0, 1))
            means[chosen.name] = chosen.compare(own, others)
        else:
            figures = [figure for pair in tensors for figure in chosen.figures(*pair)]
            means[chosen.name] = sum(figures) / len(figures)
    return means
