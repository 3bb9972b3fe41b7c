"""Makes training data of sharp photos: shards, or a folder of pairs in the published layout."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from xpsr_sdk.config import load_config
from xpsr_sdk.data.files import find_images
from xpsr_sdk.data.pairs import WRITTEN_FOLDERS
from xpsr_sdk.errors import TrainingError, WorkerLost, XPSRError
from xpsr_sdk.files.locks import folder_lock, remove_abandoned
from xpsr_sdk.plugin_system.registry import Registry, default_registry
from xpsr_sdk.preparation.pairs import RECORDS, finished_photos, write_pairs
from xpsr_sdk.preparation.recipe import Recipe
from xpsr_sdk.preparation.records import NamedPhoto
from xpsr_sdk.preparation.report import Outcome, Prepared
from xpsr_sdk.preparation.shards import PlannedShard, remove_stale, write_shard
from xpsr_sdk.preparation.work import PreparationWork
from xpsr_sdk.runners.local import LocalRunner
from xpsr_sdk.runners.work import Done, Runner

Progress = Callable[[int, int], object]
OnFailure = Callable[[Path, str], object]


def prepare_pairs(
    photos: Path,
    output: Path,
    *,
    workers: int = 1,
    runner: Runner | None = None,
    registry: Registry | None = None,
    progress: Progress = lambda done, total: None,
    on_failure: OnFailure = lambda photo, reason: None,
    **choices: Any,
) -> Prepared:
    """Make pairs in the published layout of all photos in ``photos`` and its subfolders.

    Photos that cannot be used, and prompts that could not be made, are reported, not raised as errors. Photos whose
    pairs an earlier call made are skipped, so the same call continues after it was stopped.

    Args:
        photos: Folder of sharp photos.
        output: Folder of pairs.
        workers: Number of processes. If there are several, they are spawned, so a script that uses them needs the
            usual ``if __name__ == "__main__":``.
        runner: Where the pairs are made. None: in ``workers`` processes of this machine.
        registry: The registry in which components are looked up. None: the built-in and the installed plug-ins.
        progress: ``progress(done, total)``, in photos.
        on_failure: ``on_failure(photo, reason)``, called for each photo that failed or whose prompts are missing.
        choices: Fields of ``Recipe``. The degradation cannot be None.

    Raises:
        ConfigError: One of the choices is not a field of ``Recipe``, or out of range.
        TrainingError: There are no photos, two would get the same name, or ``output`` holds pairs of another recipe.
        PluginError: A component is unknown or broken, or a worker cannot import a plug-in, see ``Registry``.
    """
    recipe, names = load_config(Recipe, choices, "The recipe"), _names(photos)
    if recipe.degradation is None:
        raise TrainingError("Pairs need a degradation: only shards can be degraded later, during training.")
    work = PreparationWork(partial(write_pairs, output), recipe, registry or default_registry())
    desk = _Desk(len(names), progress, on_failure)
    with _held(output):
        finished = finished_photos(output, names, recipe)
        desk.add([(photo, outcome) for (photo, _), outcome in finished.items()])
        missing = [photo for photo in names if photo not in finished]
        with closing((runner or LocalRunner(workers)).run(work, missing)) as made:
            for done in made:
                desk.add([(done.given[0], _outcome(done))])
    return desk.report.in_order()


def prepare_shards(
    photos: Path,
    output: Path,
    *,
    photos_a_shard: int = 32,
    workers: int = 1,
    runner: Runner | None = None,
    registry: Registry | None = None,
    progress: Progress = lambda done, total: None,
    on_failure: OnFailure = lambda photo, reason: None,
    **choices: Any,
) -> Prepared:
    """Make shards in the WebDataset format (see ``xpsr_sdk.data.shards``) of all photos in ``photos``.

    Subfolders are included. A shard appears only when it is complete, together with a record of its photos and recipe.
    Shards that an earlier call made of the same photos are kept, so the same call continues after it was stopped.

    Args:
        photos: Folder of sharp photos.
        output: Folder of shards.
        photos_a_shard: The number of photos in a shard.
        workers: Number of processes, see ``prepare_pairs``.
        runner: Where the shards are made. None: in ``workers`` processes of this machine.
        registry: The registry in which components are looked up. None: the built-in and the installed plug-ins.
        progress: ``progress(done, total)``, in photos.
        on_failure: ``on_failure(photo, reason)``, called for each photo that failed or whose prompts are missing.
        choices: Fields of ``Recipe``.

    Raises:
        ConfigError: One of the choices is not a field of ``Recipe``, or out of range.
        TrainingError: There are no photos, two would get the same name, or ``output`` holds shards of another recipe.
        ImageError: A shard cannot be written.
        PluginError: A component is unknown or broken, or a worker cannot import a plug-in, see ``Registry``.
    """
    recipe, names = load_config(Recipe, choices, "The recipe"), _names(photos)
    shards = [
        PlannedShard(output / f"shard-{number:05d}.tar", names[first : first + photos_a_shard])
        for number, first in enumerate(range(0, len(names), photos_a_shard))
    ]
    desk = _Desk(len(names), progress, on_failure)
    work = PreparationWork(write_shard, recipe, registry or default_registry())
    with _held(output):
        remove_stale(output, shards, recipe)
        finished = {shard: shard.outcomes(recipe) for shard in shards}
        desk.add([pair for shard, outcomes in finished.items() if outcomes for pair in _by_photo(shard, outcomes)])
        missing = [shard for shard, outcomes in finished.items() if not outcomes]
        with closing((runner or LocalRunner(workers)).run(work, missing)) as made:
            for done in made:
                desk.add(_by_photo(done.given, _outcomes(done)))
    return desk.report.in_order()


class _Desk:
    """Keeps the report, and tells how far the work is."""

    def __init__(self, photos: int, progress: Progress, on_failure: OnFailure) -> None:
        self.report = Prepared()
        self._photos, self._count, self._progress, self._on_failure = photos, 0, progress, on_failure

    def add(self, outcomes: Sequence[tuple[Path, Outcome]]) -> None:
        """Add the outcomes of photos."""
        if not outcomes:
            return
        for photo, outcome in outcomes:
            self.report.add(photo, outcome)
            if reason := outcome.failed or outcome.unprompted:
                self._on_failure(photo, reason)
        self._count += len(outcomes)
        self._progress(self._count, self._photos)


@contextmanager
def _held(output: Path) -> Iterator[None]:
    """Within the block, no other call may write to the folder."""
    with folder_lock(output, TrainingError) as is_free:
        if not is_free:
            raise TrainingError(f"Another xpsr data prepare is writing to {output}: wait for its end.")
        yield
        for name in ("", RECORDS, *WRITTEN_FOLDERS):
            remove_abandoned(output / name)


def _outcome(done: Done[NamedPhoto, Outcome]) -> Outcome:
    """The outcome of a photo; if the worker was lost or failed, that is the outcome."""
    if cause := _cause(done.error):
        return Outcome(failed=done.reason, cause=cause)
    return done.result()


def _outcomes(done: Done[PlannedShard, list[Outcome]]) -> list[Outcome]:
    """The outcome of each photo of a shard, of which there is none if the worker was lost or failed."""
    if cause := _cause(done.error):
        return [Outcome(failed=f"its shard is missing: {done.reason}", cause=cause) for _ in done.given.photos]
    return done.result()


def _cause(error: Exception | None) -> str:
    """What stands for an error of some photos in counts; empty for none, and for one that is to be raised."""
    if isinstance(error, WorkerLost):
        return "lost"
    return "" if error is None or isinstance(error, XPSRError) else "failed"


def _by_photo(shard: PlannedShard, outcomes: Sequence[Outcome]) -> list[tuple[Path, Outcome]]:
    """Each photo of a shard with its outcome."""
    return [(photo, outcome) for (photo, _), outcome in zip(shard.photos, outcomes, strict=True)]


def _names(root: Path) -> tuple[NamedPhoto, ...]:
    """All photos below ``root``, each with the name of its samples: its path, without suffix and dots."""
    photos = find_images(root)
    if not photos:
        raise TrainingError(f"{root} holds no images.")
    owners: dict[str, Path] = {}
    shared = Counter(photo.with_suffix("") for photo in photos)
    for photo in photos:
        bare = photo if shared[photo.with_suffix("")] > 1 else photo.with_suffix("")  # a.png beside a.jpg
        name = "__".join(bare.relative_to(root).parts).replace(".", "-")  # a key ends at the first dot
        if name in owners:
            raise TrainingError(f"{owners[name]} and {photo} would both become the pair {name}: rename one of them.")
        owners[name] = photo
    return tuple((photo, name) for name, photo in owners.items())
