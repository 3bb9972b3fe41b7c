"""Makes the samples of one photo: cuts it into crops, and degrades and describes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from xpsr_sdk.contracts import Item
from xpsr_sdk.data.images import read_picture, sha256_of, to_image, to_tensor
from xpsr_sdk.data.photo import SMALLEST_SIDE
from xpsr_sdk.data.picture import Picture, from_pil
from xpsr_sdk.data.samples import Pair
from xpsr_sdk.data.seeds import generator_for
from xpsr_sdk.engine.upscaler_tiles import upscale_to
from xpsr_sdk.errors import ConfigError, ImageError, NonFiniteResult, PluginError, print_traceback
from xpsr_sdk.hardware.devices import free_memory
from xpsr_sdk.plugin_system.answers import working_on
from xpsr_sdk.plugin_system.degrading import degraded
from xpsr_sdk.plugin_system.registry import Registry
from xpsr_sdk.preparation.recipe import Recipe
from xpsr_sdk.preparation.report import Outcome
from xpsr_sdk.preparation.sharpen import sharpen as sharpened
from xpsr_sdk.prompts.describe import describe

FLAT = 1.5
"""In gray levels. If neighbouring pixels of the half-size image differ by less on average, the image counts as flat."""
WHOLE = 120
"""Bytes of memory for each pixel of a photo that is sharpened or degraded as a whole: measured, on several photos."""

Take = Callable[[str, Pair, dict[str, Any]], None]
"""``take(name, pair, words)`` receives each sample that is made."""


class Preparer:
    """Makes the samples of a photo by a recipe."""

    def __init__(self, recipe: Recipe, registry: Registry) -> None:
        self.recipe = recipe
        self.degradation: Any = None
        if recipe.degradation is not None:
            self.degradation = registry.create("degradation_model", recipe.degradation)
        self.provider = registry.create("prompt_provider", recipe.prompt_provider)
        if recipe.upscaler is not None and recipe.degradation is None:
            raise ConfigError(
                "There is an upscaler, but no degradation, so there are no LR images that it could enlarge."
            )
        self.upscaler: Any = None
        if recipe.upscaler is not None:
            self.upscaler = registry.create("upscaler", recipe.upscaler)
        if recipe.crop and self.degradation and recipe.crop % self.degradation.scale:
            raise ConfigError(f"crop is {recipe.crop}: it must be a multiple of the scale, {self.degradation.scale}.")

    def prepare(self, photo: Path, name: str, take: Take) -> Outcome:
        """Make the samples of a photo, and pass each to ``take``. Their names begin with ``name``."""
        recipe = self.recipe
        try:
            picture = read_picture(photo, recipe.max_megapixels)
            scale = self.degradation.scale if self.degradation else 1
            width, height = (side - side % scale for side in picture.size)
            least = max(scale * SMALLEST_SIDE, recipe.crop or 0)
            if min(width, height) < least:
                reason = f"{width}x{height} is too small: at least {least} pixels in each direction are needed"
                return Outcome(failed=reason, cause="too small")
            if reason := self._takes_too_much(width * height):
                return Outcome(failed=f"{width}x{height} is too large: {reason}", cause="too large")
            picture, sha256 = picture.cropped(0, 0, width, height), sha256_of(photo)
            if recipe.sharpen:
                picture = from_pil(to_image(sharpened(to_tensor(picture.to_rgb()))))
            crops = self._crops(picture, sha256)
            good = [(place, crop) for place, crop in crops if not shows_nothing(crop.to_rgb())]
        except ImageError as error:
            return Outcome(failed=str(error), cause="damaged" if _can_be_read(photo) else "unreadable")
        if not good:
            return Outcome(failed="it is flat: it shows no detail", cause="flat")
        outcome = Outcome(flat=len(crops) - len(good))
        reasons: list[str] = []
        try:
            with working_on(str(photo)):
                for place, window in good[: recipe.crops_a_photo]:
                    crop = window.to_rgb()
                    for variant, lr, words, missing in self._samples(Item(crop, photo, sha256), place):
                        take(f"{name}{place}{variant}", Pair(crop, lr, self._upscaled(lr, crop)), words)
                        outcome.samples += 1
                        reasons += missing
        except (PluginError, NonFiniteResult) as error:  # of this photo: the others may do
            print_traceback()
            outcome.failed, outcome.cause = str(error), "failed in a part"
        outcome.unprompted = "; ".join(dict.fromkeys(reasons))
        return outcome

    def _takes_too_much(self, pixels: int) -> str:
        """Why a photo of so many pixels does not fit into memory, or an empty text."""
        if not (self.recipe.sharpen or (self.degradation and self.recipe.crop is None)):
            return ""  # no more than a crop is in memory as floats
        needed, free = pixels * WHOLE, free_memory(torch.device("cpu"))
        if needed <= free:
            return ""
        return (
            f"as a whole it takes about {needed / 2**30:.1f} GiB of memory, and {free / 2**30:.1f} GiB are free; "
            "set a crop, and no sharpen"
        )

    @torch.no_grad()
    def _upscaled(self, lr: Image.Image | None, hr: Image.Image) -> Image.Image | None:
        """The LR image, enlarged by the upscaler to the size of HR. None if there is no upscaler or no LR image."""
        if self.upscaler is None or lr is None:
            return None
        return to_image(upscale_to(self.upscaler, to_tensor(lr), hr.height, hr.width))

    def _crops(self, photo: Picture, sha256: str) -> list[tuple[str, Picture]]:
        """The crops of a photo, each with the end of its name, in random order if not all of them will be used."""
        side, recipe = self.recipe.crop, self.recipe
        if side is None:
            return [("", photo)]
        width, height = photo.size
        places = [(left, top) for top in _spread(height, side) for left in _spread(width, side)]
        if recipe.crops_a_photo is not None:
            order = torch.randperm(len(places), generator=generator_for(sha256, "crops", recipe.seed))
            places = [places[i] for i in order]
        return [(f"__x{x}_y{y}", photo.cropped(x, y, side, side)) for x, y in places]

    def _samples(self, item: Item, place: str) -> Iterator[tuple[str, Image.Image | None, dict[str, Any], list[str]]]:
        """The variants of a crop: the end of the name, the LR image, the prompts, and why prompts are missing."""
        (of_hr,) = describe(self.provider, [item], ["high", "low"])
        words = {"high": of_hr.high, "low": None, "hr_low": of_hr.low, "sha256": item.sha256}
        missing = list(of_hr.errors.values())
        if self.degradation is None:
            yield "", None, words, missing
            return
        for variant in range(self.recipe.variants):
            key = (item.sha256, *filter(None, [place]), variant, self.recipe.seed)
            lr = to_image(degraded(self.degradation, to_tensor(item.image), [generator_for(*key)]))
            (of_lr,) = describe(self.provider, [Item(lr)], ["low"])
            yield f"__v{variant}", lr, words | {"low": of_lr.low}, [*missing, *of_lr.errors.values()]


def _can_be_read(photo: Path) -> bool:
    """Whether the bytes of the file can be had."""
    try:
        return bool(sha256_of(photo))
    except OSError:
        return False


def shows_nothing(image: Image.Image) -> bool:
    """Whether an image is flat: sky, a wall, black. It is measured at half the size, so that noise does not count."""
    small = np.asarray(image.convert("L").reduce(2), dtype=np.float32)
    return float(np.abs(np.diff(small, axis=0)).mean() + np.abs(np.diff(small, axis=1)).mean()) < FLAT


def _spread(length: int, side: int) -> list[int]:
    """Where crops begin, evenly spread: as many as fit side by side."""
    count = length // side
    if count == 1:
        return [(length - side) // 2]
    return [round(i * (length - side) / (count - 1)) for i in range(count)]
