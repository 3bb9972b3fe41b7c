"""Writes the pairs of photos in the published layout. A record beside them says which photos are finished."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from xpsr_sdk.data.pairs import write_pair
from xpsr_sdk.data.samples import Pair
from xpsr_sdk.errors import ImageError
from xpsr_sdk.preparation.preparer import Preparer
from xpsr_sdk.preparation.recipe import Recipe
from xpsr_sdk.preparation.records import NamedPhoto, Record, check_recipe, ingredients, read_record
from xpsr_sdk.preparation.report import Outcome
from xpsr_sdk.runners.work import PartlyFailed

RECORDS = "records"
"""The folder of records, beside HR/ and LR/."""
THREADS = 16
"""So many records are read at a time: those in a bucket take long to fetch."""


def write_pairs(output: Path, preparer: Preparer, photo: NamedPhoto) -> Outcome:
    """Write the pairs of a photo, each to its own files, then its record, which marks it as finished.

    Returns:
        The outcome.

    Raises:
        PartlyFailed: Another worker may do better, so there is no record.
    """
    names: list[str] = []
    made_of = ingredients([photo], preparer.recipe)

    def write(name: str, pair: Pair, words: dict[str, Any]) -> None:
        write_pair(output, name, pair, words)
        names.append(name)

    try:
        outcome = preparer.prepare(*photo, write)
        if outcome.is_final:
            Record(ingredients=made_of, outcomes=[outcome], samples=names).write(_record_of(output, photo))
    except ImageError as error:
        outcome = Outcome(failed=str(error), cause="not written")
    if not outcome.is_final:
        raise PartlyFailed(outcome, photo)
    return outcome


def finished_photos(output: Path, photos: Sequence[NamedPhoto], recipe: Recipe) -> dict[NamedPhoto, Outcome]:
    """The photos that an earlier call finished and that have not changed since, each with its outcome.

    Raises:
        TrainingError: The folder holds pairs of another recipe.
    """
    known, images = (_names_in(output / part) for part in (RECORDS, "HR"))
    seen = [photo for photo in photos if _record_of(output, photo).name in known]
    with ThreadPoolExecutor(THREADS) as pool:
        read = list(pool.map(lambda photo: read_record(_record_of(output, photo)), seen))
    records = {photo: record for photo, record in zip(seen, read, strict=True) if record and record.outcomes}
    check_recipe([*records.values()], recipe, output, "pairs")
    return {
        photo: record.outcomes[0]
        for photo, record in records.items()
        if record.ingredients == ingredients([photo], recipe)
        and all(f"{name}.png" in images for name in record.samples)
    }


def _record_of(output: Path, photo: NamedPhoto) -> Path:
    return output / RECORDS / f"{photo[1]}.json"


def _names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()
