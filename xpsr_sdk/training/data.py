"""Decides which images a step reads, and fetches batches in advance.

Images are numbered over the whole run. The crop, the degradation and the noise of an image depend only on this number,
its position. So the same images are drawn for any number of processes, workers and accumulation parts, and after a
resume.
"""

from __future__ import annotations

import warnings
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from itertools import accumulate
from pathlib import Path

import torch
from torch.utils.data import DataLoader, Dataset

from xpsr_sdk.config import Component
from xpsr_sdk.data.files import find_images
from xpsr_sdk.data.images import MAX_TRAINING_MEGAPIXELS, read_picture
from xpsr_sdk.data.pairs import PairFolder, holds_pairs
from xpsr_sdk.data.photo_folder import PhotoFolder
from xpsr_sdk.data.picture import Picture, from_pil
from xpsr_sdk.data.samples import Batch, DamagedImage, Sample, Source, collate, draw_sample
from xpsr_sdk.data.seeds import generator_for
from xpsr_sdk.data.shards import ShardFolder, find_shards, read_part
from xpsr_sdk.engine.upscaler_tiles import upscale_to
from xpsr_sdk.errors import TrainingError
from xpsr_sdk.plugin_system.registry import Registry
from xpsr_sdk.prompts.store import STORE_NAME, PromptStore
from xpsr_sdk.training.config import DataSection
from xpsr_sdk.training.online_degradation import OnlineDegrader

TRIES = 10
"""A run gives up after this many images in a row that cannot be used."""


class TrainingData:
    """All images of a run.

    Args:
        section: The folders, and how their images are used.
        seed: The seed of the order, the crops and the degradations.
        registry: The registry in which components are looked up.
        upscaler: Enlarges those inputs for which no enlarged image is stored.

    Raises:
        TrainingError: A folder is missing, empty or damaged.
        PluginError: The degradation or the prompt provider is unknown or broken.
    """

    def __init__(self, section: DataSection, seed: int, registry: Registry, upscaler: Component = "bicubic") -> None:
        self.section, self.seed, self.registry, self.upscaler = section, seed, registry, upscaler
        self._sources = open_sources(section.folders, section.crop, section.keep_in_memory)
        self._ends = list(accumulate(len(source) for source in self._sources))
        self._degrader = OnlineDegrader(
            registry.create("degradation_model", section.degradation),
            registry.create("prompt_provider", section.prompt_provider),
        )
        self._upscale = partial(upscale_to, registry.create("upscaler", upscaler))
        self._order_of = lru_cache(maxsize=2)(self._draw_order)

    def __len__(self) -> int:
        return self._ends[-1]

    def batch(self, positions: Sequence[int]) -> Batch:
        """The images at these positions in the run."""
        return collate([self.sample(position) for position in positions], positions)

    def sample(self, position: int) -> Sample:
        """The image at a position in the run. One that cannot be used causes a warning, and the next image is used."""
        index = self._order_of(position // len(self))[position % len(self)]
        for distance in range(TRIES):
            try:
                drawn = self._draw((index + distance) % len(self), generator_for(self.seed, "sample", position))
                return replace(drawn, replaced=distance)
            except DamagedImage as error:
                last = error
                warnings.warn(f"{error} The next image is used instead.", stacklevel=2)
        raise TrainingError(f"{TRIES} images in a row cannot be used, the last: {last}")

    def _draw(self, index: int, generator: torch.Generator) -> Sample:
        which = bisect_right(self._ends, index)
        source, section = self._sources[which], self.section
        first = self._ends[which] - len(source)
        sample = draw_sample(
            source, index - first, section.crop, section.hr_as_input, self._degrader, self._upscale, generator
        )
        high, low = sample.high if "high" in section.levels else "", sample.low if "low" in section.levels else ""
        unprompted = sample.unprompted if "low" in section.levels else ""
        return replace(sample, high=high, low=low, unprompted=unprompted)

    def _draw_order(self, epoch: int) -> list[int]:
        order: list[int] = torch.randperm(len(self), generator=generator_for(self.seed, "epoch", epoch)).tolist()
        return order


def open_sources(folders: Sequence[Path], crop: int, keep_in_memory: int = 0) -> list[Source]:
    """The images in the folders: shards, pairs or photos. A ``*`` in the name of a folder matches any characters.

    Raises:
        TrainingError: A folder is missing, empty or damaged.
    """
    read = lru_cache(keep_in_memory)(_read_decoded) if keep_in_memory else _read
    part = lru_cache(keep_in_memory)(read_part)
    sources: list[Source] = []
    for folder in _expand(folders):
        if find_shards(folder):
            sources.append(ShardFolder(folder, part, crop))
            continue
        stored_prompt = PromptStore(folder / STORE_NAME).text_of
        if holds_pairs(folder) or not find_images(folder):
            sources.append(PairFolder(folder, read, stored_prompt))
        else:
            sources.append(PhotoFolder(folder, read, crop, stored_prompt))
    return sources


def positions_of_process(
    process: int, processes: int, batch_size: int, parts: Iterable[int], parts_a_step: int
) -> Iterator[range]:
    """The positions of one process's images in the run, for each of the parts that steps are accumulated from.

    All processes together have each position once, in the same order for any number of processes.

    Args:
        process: The number of the process, from 0.
        processes: How many there are, on all machines.
        batch_size: Images of a step, of all processes and parts together.
        parts: The numbers of the parts, counted over the whole run.
        parts_a_step: Parts of a step (``gradient_accumulation``).
    """
    size = batch_size // (parts_a_step * processes)
    for part in parts:
        first = (part * processes + process) * size
        yield range(first, first + size)


def batches(data: TrainingData, positions: Iterable[Sequence[int]], pin_memory: bool = False) -> Iterator[Batch]:
    """Batches of the images at ``positions`` in the run. Worker processes, if there are any, fetch them in advance.

    Each worker has its own registry, with the same plug-ins as that of the run.

    Raises:
        PluginError: A worker cannot import a plug-in, see ``Registry``.
    """
    if not data.section.workers:
        return map(data.batch, positions)
    loader = DataLoader(
        _InWorker(data.section, data.seed, data.registry, data.upscaler),
        batch_sampler=positions,  # type: ignore[arg-type]  # any iterable of lists will do
        num_workers=data.section.workers,
        collate_fn=_only,
        pin_memory=pin_memory,
        multiprocessing_context="spawn",  # torch has started threads, and a fork of a process with threads may hang
        generator=torch.Generator(),  # the global generator is left for the steps
    )
    return iter(loader)


class _InWorker(Dataset[Batch]):
    """The images of a run. Files are opened in the worker, since open files cannot be sent to another process."""

    def __init__(self, section: DataSection, seed: int, registry: Registry, upscaler: Component) -> None:
        self._arguments = section, seed, registry, upscaler
        self._data: TrainingData | None = None

    def __getitems__(self, positions: list[int]) -> list[Batch]:
        if self._data is None:
            self._data = TrainingData(*self._arguments)
        return [self._data.batch(positions)]


def _only(found: list[Batch]) -> Batch:
    (batch,) = found
    return batch


def _read(path: Path) -> Picture:
    return read_picture(path, MAX_TRAINING_MEGAPIXELS)


def _read_decoded(path: Path) -> Picture:
    return from_pil(_read(path).to_rgb(), str(path))


def _expand(folders: Sequence[Path]) -> list[Path]:
    found = []
    for folder in folders:
        matches = sorted(folder.parent.glob(folder.name)) if "*" in folder.name else [folder]
        if not matches:
            raise TrainingError(f"No folder matches {folder}.")
        for match in matches:
            if not match.is_dir():
                raise TrainingError(f"{match} is not a folder." if match.exists() else f"There is no folder {match}.")
        found += matches
    return found
