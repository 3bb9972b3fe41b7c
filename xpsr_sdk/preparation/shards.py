"""Writes shards of photos. Each appears only when it is complete, with a record of its photos and recipe."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from xpsr_sdk.data.images import write_whole
from xpsr_sdk.data.shards import ShardWriter
from xpsr_sdk.errors import TrainingError
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
        photos = [[name, photo.stat().st_size, photo.stat().st_mtime_ns] for photo, name in self.photos]
        return {"recipe": recipe.as_json(), "photos": photos}

    def outcomes(self, recipe: Recipe) -> list[Outcome]:
        """The outcome of each photo if an earlier call finished the shard, else an empty list."""
        record = _read_record(self.record)
        if record.get("ingredients") != self.ingredients(recipe) or not self.file.is_file():
            return []
        return [Outcome(**outcome) for outcome in record["outcomes"]]


def write_shard(preparer: Preparer, shard: PlannedShard) -> tuple[PlannedShard, list[Outcome]]:
    """Write a shard, then its record, which marks it as finished. If it fails, no incomplete shard remains."""
    outcomes: list[Outcome] = []
    ingredients = shard.ingredients(preparer.recipe)

    def fill(file: IO[bytes]) -> None:
        writer = ShardWriter(file)
        outcomes.extend(preparer.prepare(photo, name, writer.write) for photo, name in shard.photos)
        writer.close()

    write_whole(shard.file, fill)
    record = {"ingredients": ingredients, "outcomes": [asdict(outcome) for outcome in outcomes]}
    text = json.dumps(record, ensure_ascii=False) + "\n"
    write_whole(shard.record, lambda file: file.write(text.encode()))
    return shard, outcomes


def remove_stale(output: Path, shards: list[PlannedShard], recipe: Recipe) -> None:
    """Remove temporary files of killed calls, and shards that are not planned. Refuse to mix two recipes."""
    for record in sorted(output.glob("shard-*.json")):
        if _read_record(record).get("ingredients", {}).get("recipe", recipe.as_json()) != recipe.as_json():
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
