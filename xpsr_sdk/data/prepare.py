"""Makes a folder of training pairs out of sharp photos."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image

from xpsr_sdk.builtin.sharpen import sharpen as sharpened
from xpsr_sdk.config import Component
from xpsr_sdk.contracts import Item, Level, Prompts
from xpsr_sdk.data.images import find_images, read_image, to_image, to_tensor, write_image, write_whole
from xpsr_sdk.data.seeds import generator_for
from xpsr_sdk.errors import ImageError, TrainingError, one_line
from xpsr_sdk.registry import default_registry

PROMPT_FOLDERS = {"high": "highlevel_prompt_GT", "low": "lowlevel_prompt_q", "hr_low": "lowlevel_prompt_q_GT"}


@dataclass
class Prepared:
    """What ``prepare_pairs`` did.

    Attributes:
        pairs: How many pairs were written.
        failed: The photos that could not be used, each with the reason.
        unprompted: The photos whose pairs lack a prompt because the provider failed, each with the reason.
    """

    pairs: int = 0
    failed: dict[Path, str] = field(default_factory=dict)
    unprompted: dict[Path, str] = field(default_factory=dict)


def prepare_pairs(
    photos: Path,
    output: Path,
    *,
    degradation: Component = "realesrgan",
    prompt_provider: Component = "measured",
    sharpen: bool = False,
    variants: int = 1,
    seed: int = 0,
    workers: int = 1,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Prepared:
    """Degrade every photo below ``photos`` ``variants`` times, describe it, and write pairs in the published form.

    A photo is cropped to a multiple of the degradation's scale. What a photo becomes depends on its own bytes, the
    variant and the seed alone. Photos that cannot be read, and prompts that cannot be had, are reported, not raised.

    Args:
        photos: Folder of sharp photos.
        output: Folder of pairs.
        degradation: What makes the LR images.
        prompt_provider: Who describes the photos.
        sharpen: Whether photos are sharpened before anything else, as Real-ESRGAN's are (arXiv 2107.10833, section
            4.1): the HR images are then sharper than the photos.
        variants: Pairs a photo.
        seed: Of the degradations.
        workers: Processes. More than one are started afresh (by spawning), so that a script that asks for them needs
            the usual ``if __name__ == "__main__":``.
        progress: ``progress(done, total)``, after each photo.

    Raises:
        TrainingError: There are no photos, or two would get the same name.
        PluginError: A component is unknown or broken.
    """
    found = find_images(photos)
    if not found:
        raise TrainingError(f"{photos} holds no images.")
    names = _names(photos, found)
    choices = (output, degradation, prompt_provider, sharpen, variants, seed)
    report = Prepared()
    outcomes = _outcomes(_Preparer(*choices), choices, list(names.items()), workers)
    for done, (photo, outcome) in enumerate(zip(names, outcomes, strict=True), start=1):
        if outcome.failed:
            report.failed[photo] = outcome.failed
        else:
            report.pairs += variants
        if outcome.unprompted:
            report.unprompted[photo] = outcome.unprompted
        progress(done, len(found))
    return report


def _names(root: Path, photos: Sequence[Path]) -> dict[Path, str]:
    """What each photo's pairs are called: its path below ``root``, without its type."""
    owners: dict[str, Path] = {}
    for photo in photos:
        name = "__".join(photo.relative_to(root).with_suffix("").parts)
        if name in owners:
            raise TrainingError(f"{owners[name]} and {photo} would both become the pair {name}: rename one of them.")
        owners[name] = photo
    return {photo: name for name, photo in owners.items()}


class _Outcome(NamedTuple):
    """Why a photo has no pairs, and why its pairs lack prompts; empty if they do not."""

    failed: str = ""
    unprompted: str = ""


class _Preparer:
    """Writes the pairs of a photo. The arguments are those of ``prepare_pairs``."""

    def __init__(
        self, output: Path, degradation: Component, provider: Component, sharpen: bool, variants: int, seed: int
    ) -> None:
        self.output, self.sharpen, self.variants, self.seed = output, sharpen, variants, seed
        self.degradation = default_registry().create("degradation_model", degradation)
        self.provider = default_registry().create("prompt_provider", provider)

    def __call__(self, photo: Path, name: str) -> _Outcome:
        try:
            return self._prepare(photo, name)
        except ImageError as error:
            return _Outcome(failed=str(error))

    def _prepare(self, photo: Path, name: str) -> _Outcome:
        item = read_image(photo)
        scale = self.degradation.scale
        width, height = (side - side % scale for side in item.image.size)
        if min(width, height) < scale * 16:
            return _Outcome(f"{width}x{height} is too small: at least {scale * 16} pixels in each direction are needed")
        hr = item.image.crop((0, 0, width, height))
        if self.sharpen:
            hr = to_image(sharpened(to_tensor(hr)))
        of_hr = self._describe(Item(hr, item.path, item.sha256), ["high", "low"])
        reasons = list(of_hr.errors.values())
        for variant in range(self.variants):
            lr = to_image(self.degradation(to_tensor(hr), [generator_for(item.sha256, variant, self.seed)]))
            of_lr = self._describe(Item(lr), ["low"])
            reasons += of_lr.errors.values()
            prompts = {"high": of_hr.high, "low": of_lr.low, "hr_low": of_hr.low}
            _write_pair(self.output, f"{name}__v{variant}", hr, lr, prompts)
        return _Outcome(unprompted="; ".join(dict.fromkeys(reasons)))

    def _describe(self, item: Item, levels: Collection[Level]) -> Prompts:
        """What the provider says; one that fails costs its words only."""
        try:
            (said,) = self.provider.describe([item], levels)
            if not isinstance(said, Prompts):
                raise TypeError(f"the provider gave a {type(said).__name__}, not Prompts")
        except Exception as error:
            return Prompts(errors=dict.fromkeys(levels, one_line(error)))
        return said


def _outcomes(
    prepare: _Preparer, choices: tuple[Any, ...], photos: list[tuple[Path, str]], workers: int
) -> Iterator[_Outcome]:
    """What becomes of each photo and its name, in their order."""
    if workers > 1:
        # Spawned, not forked: torch has threads by now, and a fork with threads may hang.
        pool = ProcessPoolExecutor(workers, get_context("spawn"), _start_worker, choices)
        with pool:
            yield from pool.map(_in_worker, photos, chunksize=4)
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in a worker: the number of threads may change how a kernel rounds
    try:
        yield from (prepare(*photo) for photo in photos)
    finally:
        torch.set_num_threads(threads)


_prepare: _Preparer
"""Of this process, if it is a worker."""


def _start_worker(*choices: Any) -> None:
    global _prepare
    torch.set_num_threads(1)
    _prepare = _Preparer(*choices)


def _in_worker(photo: tuple[Path, str]) -> _Outcome:
    return _prepare(*photo)


def _write_pair(output: Path, name: str, hr: Image.Image, lr: Image.Image, prompts: dict[str, str | None]) -> None:
    for level, text in prompts.items():
        if text is not None:
            _write_text(output / PROMPT_FOLDERS[level] / f"{name}.txt", text)
    # HR comes last: a pair is read from its HR image on.
    write_image(lr, output / "LR" / f"{name}.png")
    write_image(hr, output / "HR" / f"{name}.png")


def _write_text(path: Path, text: str) -> None:
    write_whole(path, lambda file: file.write(text.encode()))
