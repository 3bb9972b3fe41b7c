"""Measures the photos of a folder: decoded ahead in threads, in batches of one size, each figure stored at once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from xpsr_sdk.data.images import read_image, sha256_of
from xpsr_sdk.errors import ImageError, XPSRError, one_line
from xpsr_sdk.evaluation.chosen import ChosenMetric
from xpsr_sdk.evaluation.loading import LoadedPair, as_tensor, batches_of_one_size, loaded_ahead
from xpsr_sdk.evaluation.matching import Pair
from xpsr_sdk.evaluation.metrics import Image, cropped
from xpsr_sdk.evaluation.store import ScoreStore, score_key

Features = dict[str, dict[str, tuple[Tensor, Tensor | None]]]
"""By metric and photo, the features of the restored photo and of its reference."""


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


class Scorer:
    """Measures pairs of photos with the chosen metrics.

    Args:
        metrics: The metrics.
        crop: Pixels left out at each side, for every metric.
        device: Where to compute.
        batch: How many photos of one size are measured together.
        store: Figures that are known already.
    """

    def __init__(
        self,
        metrics: Sequence[ChosenMetric],
        *,
        crop: int = 0,
        device: torch.device | str = "cpu",
        batch: int = 1,
        store: ScoreStore | None = None,
    ) -> None:
        self.metrics = list(metrics)
        self._crop, self._device, self._batch = crop, torch.device(device), batch
        self._store = store or ScoreStore(None)
        self._reference_features: dict[tuple[str, Path | None], Tensor] = {}
        self._of_images = [chosen for chosen in metrics if not chosen.of_folders]
        self._of_folders = [chosen for chosen in metrics if chosen.of_folders]

    def score(self, pairs: Sequence[Pair], progress: Callable[[int, int], object] | None = None) -> FolderScores:
        """Measure all pairs. A bad file is no error: it is among the failures of the result."""
        measured: list[LoadedPair] = []
        features: Features = {chosen.name: {} for chosen in self._of_folders}
        for group in batches_of_one_size(loaded_ahead(self._load, pairs), self._batch):
            for chosen in self._of_images:
                self._measure(chosen, [photo for photo in group if chosen.name in photo.missing])
            for photo in group:
                for chosen in self._of_folders:
                    self._add_features(chosen, photo, features[chosen.name])
                photo.image = photo.reference = None
                measured.append(photo)
                if progress:
                    progress(len(measured), len(pairs))
        rows = tuple(ImageScores(photo.pair.name, photo.scores) for photo in measured if photo.readable)
        failures = {photo.pair.name: " ".join(photo.failures) for photo in measured if photo.failures}
        in_whole = {metric: tuple(of_photos) for metric, of_photos in features.items()}
        return FolderScores(rows, self._compared(features, failures), failures, in_whole)

    def _load(self, pair: Pair) -> LoadedPair:
        """What the store knows of a pair, and its pixels if that is not all."""
        photo = LoadedPair(pair)
        try:
            digests = [None if path is None else sha256_of(path) for path in (pair.pred, pair.hr)]
            for chosen in self._of_images:
                reference = digests[1] if chosen.metric.needs_reference else None
                key = score_key(chosen.component, chosen.metric.details, self._crop, str(digests[0]), reference)
                known = self._store.get(key) if chosen.storable else None
                if known is None:
                    photo.missing[chosen.name] = key
                else:
                    photo.scores[chosen.name] = known
            if photo.missing or self._of_folders:
                self._decode(photo)
        except (XPSRError, OSError) as error:
            photo.readable = False
            photo.failures.append(str(error))
        return photo

    def _decode(self, photo: LoadedPair) -> None:
        pair = photo.pair
        image = np.asarray(read_image(pair.pred).image)
        photo.image = as_tensor(cropped(image, self._crop))
        if pair.hr is None or not any(chosen.metric.needs_reference for chosen in self.metrics):
            return
        reference = np.asarray(read_image(pair.hr).image)
        if image.shape != reference.shape:
            raise ImageError(
                f"{pair.pred} has {image.shape[1]} x {image.shape[0]} pixels, but {pair.hr} has "
                f"{reference.shape[1]} x {reference.shape[0]}."
            )
        photo.reference = as_tensor(cropped(reference, self._crop))

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
            if chosen.storable:
                self._store.add(photo.missing[chosen.name], figure, metric=chosen.name, photo=photo.pair.name)

    def _add_features(
        self, chosen: ChosenMetric, photo: LoadedPair, features: dict[str, tuple[Tensor, Tensor | None]]
    ) -> None:
        if photo.image is None or not photo.readable:
            return
        try:
            chosen.check_size(*photo.size)
            own = chosen.features(self._placed([photo.image]))
            features[photo.pair.name] = own, self._features_of_reference(chosen, photo)
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

    def _compared(self, features: Features, failures: dict[str, str]) -> dict[str, float]:
        """The figures of the folder."""
        figures = {}
        for chosen in self._of_folders:
            own = [pair[0] for pair in features[chosen.name].values()]
            references = [pair[1] for pair in features[chosen.name].values() if pair[1] is not None]
            if not own:
                continue
            try:
                figure = chosen.compare(torch.cat(own), torch.cat(references) if references else None)
                figures[chosen.name] = figure
            except Exception as error:  # whatever a metric makes of too few photos
                failures[f"all photos, {chosen.name}"] = one_line(error)
        return figures

    def _placed(self, photos: Sequence[Tensor | None]) -> Tensor:
        """Photos of one size as a batch in [0, 1] on the device, in float64 where it has that."""
        dtype = torch.float32 if self._device.type == "mps" else torch.float64
        return torch.cat([photo for photo in photos if photo is not None]).to(self._device).to(dtype) / 255


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
