"""Writes shards of photos. Each appears only when it is complete, with a record of its photos and recipe."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from pydantic import BaseModel

from xpsr_sdk.data.shards import ShardWriter
from xpsr_sdk.errors import TrainingError
from xpsr_sdk.files.reading import read_json, validated
from xpsr_sdk.files.writing import write_whole
from xpsr_sdk.preparation.preparer import Preparer
from xpsr_sdk.preparation.recipe import Recipe
from xpsr_sdk.preparation.report import Outcome


@dataclass(frozen=True)
class PlannedShard:
    """A shard that will be written: its file, and its photos, each with the name of its samples."""

    file: Path
    photos: tuple[tuple[Path, str], ...]

    @property
    def record(self) -> Path:
        """The file that records the ingredients of the shard and the outcome of each photo."""
        return self.file.with_suffix(".json")

    def ingredients(self, recipe: Recipe) -> dict[str, Any]:
        """Everything that the shard depends on. It is written again only if this changes."""
        photos = [[name, *_size_and_time(photo)] for photo, name in self.photos]
        return {"recipe": recipe.as_json(), "photos": photos}

    def outcomes(self, recipe: Recipe) -> list[Outcome]:
        """The outcome of each photo if an earlier call finished the shard, else an empty list."""
        record = _read_record(self.record)
        if record is None or record.ingredients != self.ingredients(recipe) or not self.file.is_file():
            return []
        return record.outcomes if len(record.outcomes) == len(self.photos) else []


class Record(BaseModel):
    """What is written beside a shard. It comes first, without outcomes, so that a shard without one is not ours."""

    ingredients: dict[str, Any]
    outcomes: list[Outcome] = []


def write_shard(preparer: Preparer, shard: PlannedShard) -> list[Outcome]:
    """Write a shard, then its record, which marks it as finished. If it fails, no incomplete shard remains.

    Returns:
        The outcome of each photo.
    """
    outcomes: list[Outcome] = []
    ingredients = shard.ingredients(preparer.recipe)

    def fill(file: IO[bytes]) -> None:
        writer = ShardWriter(file)
        outcomes.extend(preparer.prepare(photo, name, writer.write) for photo, name in shard.photos)
        writer.close()

    _write_record(shard.record, ingredients, [])
    write_whole(shard.file, fill)
    _write_record(shard.record, ingredients, outcomes)
    return outcomes


def _write_record(file: Path, ingredients: dict[str, Any], outcomes: list[Outcome]) -> None:
    record = {"ingredients": ingredients, "outcomes": [asdict(outcome) for outcome in outcomes]}
    text = json.dumps(record) + "\n"  # in ASCII: names may be no UTF-8
    write_whole(file, lambda out: out.write(text.encode()))


def remove_stale(output: Path, shards: list[PlannedShard], recipe: Recipe) -> None:
    """Remove shards of earlier calls beyond the last; refuse to mix two recipes, or to replace files of others."""
    records = {file: record for file in sorted(output.glob("shard-*.json")) if (record := _read_record(file))}
    if any(record.ingredients.get("recipe") != recipe.as_json() for record in records.values()):
        raise TrainingError(
            f"{output} holds shards that were made with other options: choose another output, or delete it."
        )
    for shard in shards:
        for file in (shard.file, shard.record):
            if file.exists() and shard.record not in records:
                raise TrainingError(f"{file} was not made by xpsr data prepare, and is kept: choose another output.")
    for beyond in records.keys() - {shard.record for shard in shards}:
        beyond.with_suffix(".tar").unlink(missing_ok=True)
        beyond.unlink()


def _read_record(file: Path) -> Record | None:
    """The record in a file; None: it is none of ours."""
    try:
        return validated(Record, read_json(file, TrainingError), str(file), TrainingError)
    except TrainingError:
        return None


def _size_and_time(photo: Path) -> tuple[int, int]:
    """Bytes of a photo, and when it was written; zeros of one that cannot be read, such as a broken link."""
    try:
        status = photo.stat()
    except OSError:
        return 0, 0
    return status.st_size, status.st_mtime_ns
