"""``xpsr data``: prepare training data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from xpsr_sdk.cli.components import part_options, with_options
from xpsr_sdk.cli.options import setting
from xpsr_sdk.cli.places import Place
from xpsr_sdk.cli.progress import photo_progress
from xpsr_sdk.cli.runner_options import runner_options
from xpsr_sdk.cli.terminal import complain, quiet_option, say, warnings_on_stderr
from xpsr_sdk.preparation.recipe import Recipe
from xpsr_sdk.runners.work import Runner

if TYPE_CHECKING:
    from xpsr_sdk.preparation.report import Prepared


@click.group()
def data() -> None:
    """Prepare the photos and prompts that training needs."""


@data.command()
@click.argument("photos", type=Place(exists=True, file_okay=False))
@click.option("-o", "--output", required=True, type=Place(file_okay=False), help="Folder of the result.")
@click.option(
    "--form",
    type=click.Choice(["shards", "pairs"]),
    default="shards",
    show_default=True,
    help="Shards in the WebDataset format, or pairs in the published layout: HR/, LR/ and folders of prompts.",
)
@setting(Recipe, "degradation")
@part_options("degradation")
@setting(Recipe, "prompt_provider")
@part_options("prompt-provider")
@setting(Recipe, "upscaler")
@part_options("upscaler")
@setting(Recipe, "sharpen")
@setting(Recipe, "crop")
@setting(Recipe, "crops_a_photo")
@setting(Recipe, "max_megapixels")
@setting(Recipe, "variants")
@click.option("--photos-a-shard", type=click.IntRange(min=1), default=32, show_default=True, help="Photos in a shard.")
@setting(Recipe, "seed")
@runner_options
@quiet_option
def prepare(
    photos: Path,
    output: Path,
    form: Literal["shards", "pairs"],
    runner: Runner,
    photos_a_shard: int,
    **choices: Any,
) -> None:
    """Degrade the sharp PHOTOS, describe both versions, and write them as training data.

    If the command was stopped, the same command continues: finished shards and pairs are kept.
    """
    from xpsr_sdk.preparation.prepare import prepare_pairs, prepare_shards

    make: Callable[..., Prepared] = (
        partial(prepare_shards, photos_a_shard=photos_a_shard) if form == "shards" else prepare_pairs
    )
    recipe = _recipe(choices)
    with photo_progress("preparing") as shown, warnings_on_stderr():
        report = make(photos, output, runner=runner, progress=shown.tell, on_failure=shown.fail, **recipe)
    _print(report, output)
    if not report.samples or set(report.causes.values()) - {"flat"}:
        raise click.exceptions.Exit(1)


def _recipe(options: dict[str, Any]) -> dict[str, Any]:
    """The fields of ``Recipe`` that the given options set."""
    degraded = options["degradation"] != "none"
    for flag in ("degradation", "prompt-provider", "upscaler"):
        kind = flag.replace("-", "_")
        own = Recipe.model_fields[kind].default
        options[kind] = with_options(flag, options[kind], options.pop(f"{kind}_option"), own)
    given = {name: value for name, value in options.items() if value is not None}
    return given if degraded else given | {"degradation": None}


def _print(report: Prepared, output: Path) -> None:
    for photo, reason in report.failed.items():
        complain(f"Left out: {photo}: {reason}" if str(photo) not in reason else f"Left out: {reason}")
    for photo, count in report.flat.items():
        complain(f"Left out: {photo}: {count} flat crops")
    for photo, reason in report.unprompted.items():
        complain(f"Prompts are missing: {photo}: {reason}")
    counts = Counter(report.causes.values())
    if flat := sum(report.flat.values()):
        counts["flat crops"] = flat
    left_out = f"; left out: {', '.join(f'{n} {cause}' for cause, n in sorted(counts.items()))}" if counts else ""
    say(f"{report.samples} samples are in {output}{left_out}")
