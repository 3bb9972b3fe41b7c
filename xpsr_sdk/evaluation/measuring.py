"""What a worker does with photos: they are decoded ahead in threads, and measured in batches of one size."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from xpsr_sdk.data.images import read_image, sha256_of
from xpsr_sdk.errors import ImageError, XPSRError
from xpsr_sdk.evaluation.chosen import ChosenMetric
from xpsr_sdk.evaluation.loading import LoadedPair, batches_of_one_size, loaded_ahead
from xpsr_sdk.evaluation.matching import Pair
from xpsr_sdk.evaluation.metrics import as_tensor
from xpsr_sdk.evaluation.store import ScoreStore, score_key
from xpsr_sdk.runners.work import PartlyFailed

Pairs = tuple[Pair, ...]
"""Photos that a worker gets together."""
Measured = list[LoadedPair]
"""Their figures, without their pixels."""


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
