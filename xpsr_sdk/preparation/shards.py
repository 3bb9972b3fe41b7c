"""Writes shards of photos. Each appears only when it is complete, with a record of its photos and recipe."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import IO

from xpsr_sdk.data.shards import ShardWriter
from xpsr_sdk.errors import TrainingError
from xpsr_sdk.files.writing import write_whole
from xpsr_sdk.preparation.preparer import Preparer
from xpsr_sdk.preparation.recipe import Recipe
from xpsr_sdk.preparation.records import NamedPhoto, Record, check_recipe, ingredients, read_record
from xpsr_sdk.preparation.report import Outcome
from xpsr_sdk.runners.work import PartlyFailed


@dataclass(frozen=True)
class PlannedShard:
    """A shard that will be written: its file, and its photos, each with the name of its samples."""

    file: Path
    photos: tuple[NamedPhoto, ...]

    @property
    def record(self) -> Path:
        """The file that records the ingredients of the shard and the outcome of each photo."""
        return self.file.with_suffix(".json")

    def outcomes(self, recipe: Recipe) -> list[Outcome]:
        """The outcome of each photo if an earlier call finished the shard, else an empty list."""
        record = read_record(self.record)
        if record is None or record.ingredients != ingredients(self.photos, recipe) or not self.file.is_file():
            return []
        return record.outcomes if len(record.outcomes) == len(self.photos) else []


def write_shard(preparer: Preparer, shard: PlannedShard) -> list[Outcome]:
    """Write a shard, then its record, which marks it as finished. If it fails, no incomplete shard remains.

    Its record comes first, without outcomes, so that a shard without one is not ours.

    Returns:
        The outcome of each photo.

    Raises:
        PartlyFailed: Another worker may do better with some photos, and is to make the shard again.
    """
    outcomes: list[Outcome] = []
    made_of = ingredients(shard.photos, preparer.recipe)

    def fill(file: IO[bytes]) -> None:
        writer = ShardWriter(file)
        outcomes.extend(preparer.prepare(photo, name, writer.write) for photo, name in shard.photos)
        writer.close()

    Record(ingredients=made_of).write(shard.record)
    write_whole(shard.file, fill)
    Record(ingredients=made_of, outcomes=outcomes).write(shard.record)
    if not all(outcome.is_final for outcome in outcomes):
        raise PartlyFailed(outcomes, shard)
    return outcomes


def remove_stale(output: Path, shards: list[PlannedShard], recipe: Recipe) -> None:
    """Remove shards of earlier calls beyond the last; refuse to mix two recipes, or to replace files of others."""
    records = {file: record for file in sorted(output.glob("shard-*.json")) if (record := read_record(file))}
    check_recipe([*records.values()], recipe, output, "shards")
    for shard in shards:
        for file in (shard.file, shard.record):
            if file.exists() and shard.record not in records:
                raise TrainingError(f"{file} was not made by xpsr data prepare, and is kept: choose another output.")
    for beyond in records.keys() - {shard.record for shard in shards}:
        beyond.with_suffix(".tar").unlink(missing_ok=True)
        beyond.unlink()
