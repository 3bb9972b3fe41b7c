"""Records beside what was prepared: of which photos and by which recipe it was made, and what came of each photo."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from xpsr_sdk.errors import TrainingError
from xpsr_sdk.files.reading import read_json, validated
from xpsr_sdk.files.writing import write_whole
from xpsr_sdk.preparation.recipe import Recipe
from xpsr_sdk.preparation.report import Outcome

NamedPhoto = tuple[Path, str]
"""A photo, and the name of its samples."""


class Record(BaseModel):
    """What is written beside a shard or a photo's pairs.

    Attributes:
        ingredients: Everything that they depend on. They are made again only if this changes.
        outcomes: The outcome of each photo; empty while they are being made.
        samples: The names of a photo's pairs.
    """

    ingredients: dict[str, Any]
    outcomes: list[Outcome] = []
    samples: list[str] = []

    def write(self, file: Path) -> None:
        """Write the record.

        Raises:
            ImageError: It cannot be written.
        """
        outcomes = [asdict(outcome) for outcome in self.outcomes]
        named = {"samples": self.samples} if self.samples else {}
        text = json.dumps({"ingredients": self.ingredients, "outcomes": outcomes, **named}) + "\n"
        write_whole(file, lambda out: out.write(text.encode()))  # in ASCII: names may be no UTF-8


def ingredients(photos: Sequence[NamedPhoto], recipe: Recipe) -> dict[str, Any]:
    """What samples depend on: the recipe, and the size and the time of each photo."""
    return {"recipe": recipe.as_json(), "photos": [[name, *_size_and_time(photo)] for photo, name in photos]}


def read_record(file: Path) -> Record | None:
    """The record in a file; None: it is none of ours."""
    try:
        return validated(Record, read_json(file, TrainingError), str(file), TrainingError)
    except TrainingError:
        return None


def check_recipe(records: Sequence[Record], recipe: Recipe, output: Path, what: str) -> None:
    """Refuse to mix two recipes.

    Raises:
        TrainingError: One of the records is of another recipe.
    """
    if any(record.ingredients.get("recipe") != recipe.as_json() for record in records):
        raise TrainingError(
            f"{output} holds {what} that were made with other options: choose another output, or delete it."
        )


def _size_and_time(photo: Path) -> tuple[int, int]:
    """Bytes of a photo, and when it was written; zeros of one that cannot be read, such as a broken link."""
    try:
        status = photo.stat()
    except OSError:
        return 0, 0
    return status.st_size, status.st_mtime_ns
