"""Makes a folder of training pairs out of sharp photos."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from xpsr_sdk.config import Component
from xpsr_sdk.contracts import Item
from xpsr_sdk.data.images import find_images, read_image, to_image, to_tensor, write_image, write_whole
from xpsr_sdk.errors import ImageError, TrainingError
from xpsr_sdk.registry import default_registry

PROMPT_FOLDERS = {"high": "highlevel_prompt_GT", "low": "lowlevel_prompt_q", "hr_low": "lowlevel_prompt_q_GT"}


@dataclass
class Prepared:
    """What ``prepare_pairs`` did.

    Attributes:
        pairs: How many pairs were written.
        failed: The photos that could not be used, each with the reason.
    """

    pairs: int = 0
    failed: dict[Path, str] = field(default_factory=dict)


def prepare_pairs(
    photos: Path,
    output: Path,
    *,
    degradation: Component = "realesrgan",
    prompt_provider: Component = "measured",
    variants: int = 1,
    seed: int = 0,
    workers: int = 1,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Prepared:
    """Degrade every photo below ``photos`` ``variants`` times, describe it, and write pairs in the published form.

    A photo is cropped to a multiple of the degradation's scale. What a photo becomes depends on its own bytes, the
    variant and the seed alone. Photos that cannot be read are reported, not raised.

    Raises:
        TrainingError: There are no photos.
        PluginError: A component is unknown or broken.
    """
    found = find_images(photos)
    if not found:
        raise TrainingError(f"{photos} holds no images.")
    default_registry().config("degradation_model", degradation)
    default_registry().config("prompt_provider", prompt_provider)
    job = partial(_prepare_one, photos, output, _Parts(_frozen(degradation), _frozen(prompt_provider)), variants, seed)
    report = Prepared()
    with ProcessPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for done, (photo, error) in enumerate(zip(found, pool.map(job, found, chunksize=4), strict=True), start=1):
            if error:
                report.failed[photo] = error
            else:
                report.pairs += variants
            progress(done, len(found))
    return report


@dataclass(frozen=True)
class _Parts:
    """The chosen components, hashable and picklable, made once in each worker."""

    degradation: str | tuple[tuple[str, Any], ...]
    provider: str | tuple[tuple[str, Any], ...]

    @cache  # noqa: B019 (lives as long as the worker)
    def make(self) -> tuple[Any, Any]:
        registry = default_registry()
        return (
            registry.create("degradation_model", _thawed(self.degradation)),
            registry.create("prompt_provider", _thawed(self.provider)),
        )


def _prepare_one(root: Path, output: Path, parts: _Parts, variants: int, seed: int, photo: Path) -> str | None:
    """Write the pairs of one photo; the reason if it could not be read."""
    try:
        item = read_image(photo)
        degradation, provider = parts.make()
        scale = degradation.scale
        width, height = (side - side % scale for side in item.image.size)
        if min(width, height) < scale * 16:
            return f"{width}x{height} is too small: at least {scale * 16} pixels in each direction are needed"
        hr = item.image.crop((0, 0, width, height))
        (of_hr,) = provider.describe([Item(hr)], ["high", "low"])
        for variant in range(variants):
            key = f"{item.sha256}/{variant}/{seed}".encode()
            generator = torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(key).digest()[:7]))
            lr = to_image(degradation(to_tensor(hr), [generator]))
            (of_lr,) = provider.describe([Item(lr)], ["low"])
            name = "__".join(photo.relative_to(root).with_suffix("").parts) + f"__v{variant}"
            _write_pair(output, name, hr, lr, {"high": of_hr.high, "low": of_lr.low, "hr_low": of_hr.low})
    except ImageError as error:
        return str(error)
    return None


def _write_pair(output: Path, name: str, hr: Image.Image, lr: Image.Image, prompts: dict[str, str | None]) -> None:
    for level, text in prompts.items():
        if text is not None:
            _write_text(output / PROMPT_FOLDERS[level] / f"{name}.txt", text)
    # HR comes last: a pair is read from its HR image on.
    write_image(lr, output / "LR" / f"{name}.png")
    write_image(hr, output / "HR" / f"{name}.png")


def _write_text(path: Path, text: str) -> None:
    write_whole(path, lambda file: file.write(text.encode()))


def _frozen(choice: Component) -> str | tuple[tuple[str, Any], ...]:
    return choice if isinstance(choice, str) else tuple(sorted(choice.items()))


def _thawed(choice: str | tuple[tuple[str, Any], ...]) -> Component:
    return choice if isinstance(choice, str) else dict(choice)
