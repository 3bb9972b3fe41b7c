"""Makes training data out of sharp photos: shards, or a folder of pairs in the published form."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import chain
from multiprocessing import get_context
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
import torch
from PIL import Image

from xpsr_sdk.builtin.sharpen import sharpen as sharpened
from xpsr_sdk.config import Component
from xpsr_sdk.contracts import Item
from xpsr_sdk.data.images import find_images, read_image, to_image, to_tensor, write_image, write_whole
from xpsr_sdk.data.seeds import generator_for
from xpsr_sdk.data.shards import ShardWriter
from xpsr_sdk.data.workers import end_with_parent
from xpsr_sdk.errors import ConfigError, ImageError, TrainingError
from xpsr_sdk.plugin_system.registry import default_registry
from xpsr_sdk.prompts.describe import describe

PROMPT_FOLDERS = {"high": "highlevel_prompt_GT", "low": "lowlevel_prompt_q", "hr_low": "lowlevel_prompt_q_GT"}
SMALLEST_LR = 16
"""Pixels that an LR image needs in each direction."""
FLAT = 1.5
"""Gray levels: an image of half the size whose pixels differ less from their neighbours, on average, shows nothing."""

Take = Callable[[str, Image.Image, Image.Image | None, dict[str, Any]], None]
"""``take(name, hr, lr, words)``: where a sample goes to."""
Progress = Callable[[int, int], None]
Task = TypeVar("Task")
Done = TypeVar("Done")


@dataclass(frozen=True)
class Recipe:
    """What becomes of a photo. It depends on the photo's bytes and on this alone.

    Attributes:
        degradation: What makes the LR images; None: none are made, they are degraded as training draws them.
        prompt_provider: Who describes both sides.
        sharpen: Whether photos are sharpened before anything else, as Real-ESRGAN's are (arXiv 2107.10833, section
            4.1): the HR images are then sharper than the photos.
        crop: Side of the crops that photos are cut into, in pixels; None: photos stay whole.
        crops_a_photo: At most so many crops of a photo, drawn at random; None: all that fit beside one another.
        variants: Degradations of each.
        seed: Of degradations and crops.
    """

    degradation: Component | None = "realesrgan"
    prompt_provider: Component = "measured"
    sharpen: bool = False
    crop: int | None = None
    crops_a_photo: int | None = None
    variants: int = 1
    seed: int = 0


@dataclass
class Outcome:
    """What became of a photo: see ``Prepared``."""

    samples: int = 0
    failed: str = ""
    cause: str = ""
    flat: int = 0
    unprompted: str = ""


@dataclass
class Prepared:
    """What was done.

    Attributes:
        samples: How many pairs, or HR images, were written.
        failed: The photos that could not be used, each with the reason.
        causes: The same, each with the reason in a word or two, to be counted.
        flat: The photos of which crops were left out because they show nothing, each with how many.
        unprompted: The photos whose samples lack a prompt because the provider failed, each with the reason.
    """

    samples: int = 0
    failed: dict[Path, str] = field(default_factory=dict)
    causes: dict[Path, str] = field(default_factory=dict)
    flat: dict[Path, int] = field(default_factory=dict)
    unprompted: dict[Path, str] = field(default_factory=dict)

    def add(self, photo: Path, outcome: Outcome) -> None:
        """Count what became of a photo."""
        self.samples += outcome.samples
        if outcome.failed:
            self.failed[photo], self.causes[photo] = outcome.failed, outcome.cause
        if outcome.flat:
            self.flat[photo] = outcome.flat
        if outcome.unprompted:
            self.unprompted[photo] = outcome.unprompted


def prepare_pairs(
    photos: Path,
    output: Path,
    *,
    workers: int = 1,
    progress: Progress = lambda done, total: None,
    **choices: Any,
) -> Prepared:
    """Make a folder of pairs in the published form out of every photo below ``photos``.

    Photos that cannot be used, and prompts that cannot be had, are reported, not raised.

    Args:
        photos: Folder of sharp photos.
        output: Folder of pairs.
        workers: Processes. More than one are started afresh (by spawning), so that a script that asks for them needs
            the usual ``if __name__ == "__main__":``.
        progress: ``progress(done, total)``, in photos.
        choices: Fields of ``Recipe``; the degradation can't be None.

    Raises:
        TrainingError: There are no photos, or two would get the same name.
        PluginError: A component is unknown or broken.
    """
    recipe, names, report = Recipe(**choices), _names(photos), Prepared()
    if recipe.degradation is None:
        raise TrainingError("Pairs need a degradation: only shards may leave it to training.")
    for done, ((photo, _), outcome) in enumerate(_made(partial(_write_pairs, output), recipe, names, workers), 1):
        report.add(photo, outcome)
        progress(done, len(names))
    return report


def prepare_shards(
    photos: Path,
    output: Path,
    *,
    photos_a_shard: int = 32,
    workers: int = 1,
    progress: Progress = lambda done, total: None,
    **choices: Any,
) -> Prepared:
    """Make shards of the WebDataset form (see ``xpsr_sdk.data.shards``) out of every photo below ``photos``.

    A shard appears when it is whole, beside a record of what it was made of. Shards that an earlier call made of the
    same photos stay as they are: a call that was stopped, however, is finished by the next one.

    Args:
        photos: Folder of sharp photos.
        output: Folder of shards.
        photos_a_shard: How many photos make a shard.
        workers: Processes, see ``prepare_pairs``.
        progress: ``progress(done, total)``, in photos.
        choices: Fields of ``Recipe``.

    Raises:
        TrainingError: There are no photos, two would get the same name, or ``output`` holds shards of another recipe.
        ImageError: A shard cannot be written.
        PluginError: A component is unknown or broken.
    """
    recipe, names = Recipe(**choices), _names(photos)
    shards = [
        PlannedShard(output / f"shard-{number:05d}.tar", names[first : first + photos_a_shard])
        for number, first in enumerate(range(0, len(names), photos_a_shard))
    ]
    _tidy(output, shards, recipe)
    finished = {shard: shard.outcomes(recipe) for shard in shards}
    kept = ((shard, outcomes) for shard, outcomes in finished.items() if outcomes)
    made = _made(_write_shard, recipe, [shard for shard, outcomes in finished.items() if not outcomes], workers)
    report, done = Prepared(), 0
    for shard, outcomes in chain(kept, made):
        for (photo, _), outcome in zip(shard.photos, outcomes, strict=True):
            report.add(photo, outcome)
        done += len(shard.photos)
        progress(done, len(names))
    return report


@dataclass(frozen=True)
class PlannedShard:
    """A shard to be, and the photos that it is made of, each with the name of its samples."""

    file: Path
    photos: tuple[tuple[Path, str], ...]

    @property
    def record(self) -> Path:
        """Where it is written what the shard was made of, and what became of each photo."""
        return self.file.with_suffix(".json")

    def ingredients(self, recipe: Recipe) -> dict[str, Any]:
        """What the shard is made of: it need not be made again while this is the same."""
        photos = [[name, photo.stat().st_size, photo.stat().st_mtime_ns] for photo, name in self.photos]
        return {"recipe": _plain(recipe), "photos": photos}

    def outcomes(self, recipe: Recipe) -> list[Outcome]:
        """What became of each photo, if an earlier call finished the shard; else nothing."""
        record = _read_record(self.record)
        if record.get("ingredients") != self.ingredients(recipe) or not self.file.is_file():
            return []
        return [Outcome(**outcome) for outcome in record["outcomes"]]


def _tidy(output: Path, shards: list[PlannedShard], recipe: Recipe) -> None:
    """Remove what killed calls left behind, and shards beyond the last; refuse to mix two recipes."""
    for record in sorted(output.glob("shard-*.json")):
        if _read_record(record).get("ingredients", {}).get("recipe", _plain(recipe)) != _plain(recipe):
            raise TrainingError(
                f"{output} holds shards that were made with other options: choose another output, or delete it."
            )
    wanted = {file for shard in shards for file in (shard.file, shard.record)}
    for file in (*output.glob(".shard-*"), *output.glob("shard-*")):
        if file not in wanted:
            file.unlink()


def _read_record(file: Path) -> dict[str, Any]:
    try:
        record: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record


def _plain(recipe: Recipe) -> dict[str, Any]:
    """A recipe as it comes back from JSON."""
    plain: dict[str, Any] = json.loads(json.dumps(asdict(recipe)))
    return plain


class Preparer:
    """Makes the samples of a photo, as the recipe says."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        registry = default_registry()
        self.degradation: Any = None
        if recipe.degradation is not None:
            self.degradation = registry.create("degradation_model", recipe.degradation)
        self.provider = registry.create("prompt_provider", recipe.prompt_provider)
        if recipe.crop and self.degradation and recipe.crop % self.degradation.scale:
            raise ConfigError(f"crop is {recipe.crop}: it must be a multiple of the scale, {self.degradation.scale}.")

    def prepare(self, photo: Path, name: str, take: Take) -> Outcome:
        """Make the samples of a photo, called ``name`` and what tells them apart, and hand them on."""
        recipe = self.recipe
        try:
            item = read_image(photo)
        except ImageError as error:
            return Outcome(failed=str(error), cause="damaged")
        scale = self.degradation.scale if self.degradation else 1
        width, height = (side - side % scale for side in item.image.size)
        least = max(scale * SMALLEST_LR, recipe.crop or 0)
        if min(width, height) < least:
            reason = f"{width}x{height} is too small: at least {least} pixels in each direction are needed"
            return Outcome(failed=reason, cause="too small")
        image = item.image.crop((0, 0, width, height))
        if recipe.sharpen:
            image = to_image(sharpened(to_tensor(image)))
        crops = self._crops(image, str(item.sha256))
        good = [(place, crop) for place, crop in crops if not shows_nothing(crop)]
        if not good:
            return Outcome(failed="it is flat: it shows nothing", cause="flat")
        outcome = Outcome(flat=len(crops) - len(good))
        reasons: list[str] = []
        for place, crop in good[: recipe.crops_a_photo]:
            for variant, lr, words, missing in self._samples(Item(crop, item.path, item.sha256), place):
                take(f"{name}{place}{variant}", crop, lr, words)
                outcome.samples += 1
                reasons += missing
        outcome.unprompted = "; ".join(dict.fromkeys(reasons))
        return outcome

    def _crops(self, image: Image.Image, sha256: str) -> list[tuple[str, Image.Image]]:
        """The crops of a photo with what tells their names apart, in random order if not all are to be used."""
        side, recipe = self.recipe.crop, self.recipe
        if side is None:
            return [("", image)]
        places = [(left, top) for top in _spread(image.height, side) for left in _spread(image.width, side)]
        if recipe.crops_a_photo is not None:
            order = torch.randperm(len(places), generator=generator_for(sha256, "crops", recipe.seed))
            places = [places[i] for i in order]
        return [(f"__x{x}_y{y}", image.crop((x, y, x + side, y + side))) for x, y in places]

    def _samples(self, item: Item, place: str) -> Iterator[tuple[str, Image.Image | None, dict[str, Any], list[str]]]:
        """The variants of a crop: what tells their names apart, LR, words, and why words are missing."""
        (of_hr,) = describe(self.provider, [item], ["high", "low"])
        words = {"high": of_hr.high, "low": None, "hr_low": of_hr.low, "sha256": item.sha256}
        missing = list(of_hr.errors.values())
        if self.degradation is None:
            yield "", None, words, missing
            return
        for variant in range(self.recipe.variants):
            key = (item.sha256, *filter(None, [place]), variant, self.recipe.seed)
            lr = to_image(self.degradation(to_tensor(item.image), [generator_for(*key)]))
            (of_lr,) = describe(self.provider, [Item(lr)], ["low"])
            yield f"__v{variant}", lr, words | {"low": of_lr.low}, [*missing, *of_lr.errors.values()]


def shows_nothing(image: Image.Image) -> bool:
    """Whether an image is flat: sky, a wall, black. Measured at half the size, so that noise is no detail."""
    small = np.asarray(image.convert("L").reduce(2), dtype=np.float32)
    return float(np.abs(np.diff(small, axis=0)).mean() + np.abs(np.diff(small, axis=1)).mean()) < FLAT


def _spread(length: int, side: int) -> list[int]:
    """Where as many crops begin as fit beside one another, evenly spread."""
    count = length // side
    if count == 1:
        return [(length - side) // 2]
    return [round(i * (length - side) / (count - 1)) for i in range(count)]


def _names(root: Path) -> tuple[tuple[Path, str], ...]:
    """All photos below ``root``, each with what its samples are called: its path, without its type and dots."""
    photos = find_images(root)
    if not photos:
        raise TrainingError(f"{root} holds no images.")
    owners: dict[str, Path] = {}
    for photo in photos:
        name = "__".join(photo.relative_to(root).with_suffix("").parts).replace(".", "-")  # a key ends at the first dot
        if name in owners:
            raise TrainingError(f"{owners[name]} and {photo} would both become the pair {name}: rename one of them.")
        owners[name] = photo
    return tuple((photo, name) for name, photo in owners.items())


def _write_pairs(output: Path, preparer: Preparer, photo: tuple[Path, str]) -> tuple[tuple[Path, str], Outcome]:
    """The pairs of a photo, each in a file of its own."""
    try:
        return photo, preparer.prepare(*photo, partial(_write_pair, output))
    except ImageError as error:
        return photo, Outcome(failed=str(error), cause="not written")


def _write_pair(output: Path, name: str, hr: Image.Image, lr: Image.Image | None, words: dict[str, Any]) -> None:
    assert lr is not None
    for level, folder in PROMPT_FOLDERS.items():
        if words[level] is not None:
            _write_text(output / folder / f"{name}.txt", words[level])
    # HR comes last: a pair is read from its HR image on.
    write_image(lr, output / "LR" / f"{name}.png")
    write_image(hr, output / "HR" / f"{name}.png")


def _write_shard(preparer: Preparer, shard: PlannedShard) -> tuple[PlannedShard, list[Outcome]]:
    """A shard, whole or not at all, and then its record, which says that it is finished."""
    outcomes: list[Outcome] = []
    ingredients = shard.ingredients(preparer.recipe)

    def fill(file: IO[bytes]) -> None:
        writer = ShardWriter(file)
        outcomes.extend(preparer.prepare(photo, name, writer.write) for photo, name in shard.photos)
        writer.close()

    write_whole(shard.file, fill)
    record = {"ingredients": ingredients, "outcomes": [asdict(outcome) for outcome in outcomes]}
    _write_text(shard.record, json.dumps(record, ensure_ascii=False) + "\n")
    return shard, outcomes


def _write_text(path: Path, text: str) -> None:
    write_whole(path, lambda file: file.write(text.encode()))


def _made(
    make: Callable[[Preparer, Task], Done], recipe: Recipe, tasks: Sequence[Task], workers: int
) -> Iterator[Done]:
    """What ``make`` gives for each task, in their order, in this process or in several."""
    preparer = Preparer(recipe)  # here as well: what can't be made is an error before any process is started
    if workers > 1:
        # Spawned, not forked: torch has threads by now, and a fork with threads may hang.
        with ProcessPoolExecutor(workers, get_context("spawn"), _start_worker, (recipe,)) as pool:
            yield from pool.map(partial(_in_worker, make), tasks)
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in a worker: the number of threads may change how a kernel rounds
    try:
        yield from (make(preparer, task) for task in tasks)
    finally:
        torch.set_num_threads(threads)


_preparer: Preparer
"""Of this process, if it is a worker."""


def _start_worker(recipe: Recipe) -> None:
    global _preparer
    end_with_parent()
    torch.set_num_threads(1)
    _preparer = Preparer(recipe)


def _in_worker(make: Callable[[Preparer, Task], Done], task: Task) -> Done:
    return make(_preparer, task)
