"""Measures the photos of methods with a runner. Each figure is stored as soon as it is there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path

import torch

from xpsr_sdk.errors import WorkerLost, XPSRError, one_line
from xpsr_sdk.evaluation.chosen import ChosenMetric
from xpsr_sdk.evaluation.loading import LoadedPair
from xpsr_sdk.evaluation.matching import Pair
from xpsr_sdk.evaluation.measuring import Measured, Pairs, ScoringWork
from xpsr_sdk.evaluation.metrics import Image, as_tensor
from xpsr_sdk.evaluation.scores import FolderScores, ImageScores
from xpsr_sdk.runners.work import Done, Runner

BATCHES_AT_A_TIME = 8
"""A worker gets so many batches together, and loads the photos of one while it measures another."""


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
