"""Pairs of photos on their way to the metrics: loaded ahead in threads, and grouped by size."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice

from torch import Tensor

from xpsr_sdk.evaluation.matching import Pair

THREADS, AHEAD = 2, 4
"""Threads that decode, and photos that are decoded before they are needed."""


@dataclass
class LoadedPair:
    """A pair on its way.

    Attributes:
        pair: Its files.
        scores: The figures that are known.
        missing: The keys of those that are not.
        image: The restored photo, 1 3 H W in 8 bits, while it is needed.
        reference: The reference, likewise.
        features: The features of both for metrics of whole folders, by metric.
        failures: What went wrong.
        readable: Whether both files could be read and fit.
    """

    pair: Pair
    scores: dict[str, float] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    image: Tensor | None = None
    reference: Tensor | None = None
    features: dict[str, tuple[Tensor, Tensor | None]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    readable: bool = True

    @property
    def size(self) -> tuple[int, int]:
        """Width and height; of no pixels, 0 and 0."""
        return (0, 0) if self.image is None else (self.image.shape[3], self.image.shape[2])


def loaded_ahead(load: Callable[[Pair], LoadedPair], pairs: Sequence[Pair]) -> Iterator[LoadedPair]:
    """Load pairs in threads, a few ahead, in their order."""
    with ThreadPoolExecutor(THREADS) as pool:
        waiting: deque[Future[LoadedPair]] = deque()
        remaining = iter(pairs)
        while True:
            waiting.extend(pool.submit(load, pair) for pair in islice(remaining, AHEAD - len(waiting)))
            if not waiting:
                return
            yield waiting.popleft().result()


def batches_of_one_size(photos: Iterable[LoadedPair], batch: int) -> Iterator[list[LoadedPair]]:
    """Neighbours of one size, at most ``batch`` of them together."""
    group: list[LoadedPair] = []
    for photo in photos:
        if group and (len(group) == batch or photo.size != group[0].size):
            yield group
            group = []
        group.append(photo)
    if group:
        yield group
