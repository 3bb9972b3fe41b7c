"""Makes training data of sharp photos: shards, or a folder of pairs in the published layout."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from xpsr_sdk.config import load_config
from xpsr_sdk.data.files import find_images
from xpsr_sdk.data.pairs import write_pair
from xpsr_sdk.errors import ImageError, TrainingError, WorkerLost
from xpsr_sdk.files.locks import folder_lock
from xpsr_sdk.plugin_system.registry import Registry, default_registry
from xpsr_sdk.preparation.preparer import Preparer
from xpsr_sdk.preparation.recipe import Recipe
from xpsr_sdk.preparation.report import Outcome, Prepared
from xpsr_sdk.preparation.shards import PlannedShard, remove_stale, write_shard
from xpsr_sdk.preparation.work import PreparationWork
from xpsr_sdk.runners.local import LocalRunner
from xpsr_sdk.runners.work import Done, Runner

Progress = Callable[[int, int], None]


def prepare_pairs(
    photos: Path,
    output: Path,
    *,
    workers: int = 1,
    runner: Runner | None = None,
    registry: Registry | None = None,
    progress: Progress = lambda done, total: None,
    **choices: Any,
) -> Prepared:
    """Make pairs in the published layout of all photos in ``photos`` and its subfolders.

    Photos that cannot be used, and prompts that could not be made, are reported, not raised as errors.

    Args:
        photos: Folder of sharp photos.
        output: Folder of pairs.
        workers: Number of processes. If there are several, they are spawned, so a script that uses them needs the
            usual ``if __name__ == "__main__":``.
        runner: Where the pairs are made. None: in ``workers`` processes of this machine.
        registry: The registry in which components are looked up. None: the built-in and the installed plug-ins.
        progress: ``progress(done, total)``, in photos.
        choices: Fields of ``Recipe``. The degradation cannot be None.

    Raises:
        ConfigError: One of the choices is not a field of ``Recipe``, or out of range.
        TrainingError: There are no photos, or two would get the same name.
        PluginError: A component is unknown or broken, or a worker cannot import a plug-in, see ``Registry``.
    """
    recipe, names, report = load_config(Recipe, choices, "The recipe"), _names(photos), Prepared()
    if recipe.degradation is None:
        raise TrainingError("Pairs need a degradation: only shards can be degraded later, during training.")
    work = PreparationWork(partial(_write_pairs, output), recipe, registry or default_registry())
    with _held(output), closing((runner or LocalRunner(workers)).run(work, names)) as made:
        for count, done in enumerate(made, 1):
            report.add(done.given[0], _outcome(done))
            progress(count, len(names))
    return report.in_order()


def prepare_shards(
    photos: Path,
    output: Path,
    *,
    photos_a_shard: int = 32,
    workers: int = 1,
    runner: Runner | None = None,
    registry: Registry | None = None,
    progress: Progress = lambda done, total: None,
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
    report, count = Prepared(), 0
    work = PreparationWork(write_shard, recipe, registry or default_registry())
    with _held(output):
        remove_stale(output, shards, recipe)
        finished = {shard: shard.outcomes(recipe) for shard in shards}
        kept = (Done(shard, outcomes) for shard, outcomes in finished.items() if outcomes)
        missing = [shard for shard, outcomes in finished.items() if not outcomes]
        with closing((runner or LocalRunner(workers)).run(work, missing)) as made:
            for done in chain(kept, made):
                for (photo, _), outcome in zip(done.given.photos, _outcomes(done), strict=True):
                    report.add(photo, outcome)
                count += len(done.given.photos)
                progress(count, len(names))
    return report.in_order()


@contextmanager
def _held(output: Path) -> Iterator[None]:
    """Within the block, no other call may write to the folder."""
    with folder_lock(output, TrainingError) as is_free:
        if not is_free:
            raise TrainingError(f"Another xpsr data prepare is writing to {output}: wait for its end.")
        yield


def _write_pairs(output: Path, preparer: Preparer, photo: tuple[Path, str]) -> Outcome:
    """Write the pairs of a photo, each to its own files."""
    try:
        return preparer.prepare(*photo, partial(write_pair, output))
    except ImageError as error:
        return Outcome(failed=str(error), cause="not written")


def _outcome(done: Done[tuple[Path, str], Outcome]) -> Outcome:
    """The outcome of a photo; if the worker was lost, that is the outcome."""
    if isinstance(done.error, WorkerLost):
        return Outcome(failed=str(done.error), cause="lost")
    return done.result()


def _outcomes(done: Done[PlannedShard, list[Outcome]]) -> list[Outcome]:
    """The outcome of each photo of a shard, of which there is none if the worker was lost."""
    if isinstance(done.error, WorkerLost):
        return [Outcome(failed=f"its shard is missing: {done.error}", cause="lost") for _ in done.given.photos]
    return done.result()


def _names(root: Path) -> tuple[tuple[Path, str], ...]:
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
