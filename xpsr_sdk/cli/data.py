"""``xpsr data``: what training needs."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from xpsr_sdk.cli.components import part_options, with_options
from xpsr_sdk.cli.terminal import progress_bar

if TYPE_CHECKING:
    from xpsr_sdk.preparation.report import Prepared


@click.group()
def data() -> None:
    """Prepare the photos and prompts that training needs."""


@data.command()
@click.argument("photos", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "-o", "--output", required=True, type=click.Path(file_okay=False, path_type=Path), help="Folder of the result."
)
@click.option(
    "--form",
    type=click.Choice(["shards", "pairs"]),
    default="shards",
    show_default=True,
    help="Shards of the WebDataset form, or the published form: HR/, LR/ and folders of prompts.",
)
@click.option(
    "--degradation",
    default="realesrgan",
    show_default=True,
    help="Degradation model; none: photos are degraded as training draws them.",
)
@part_options("degradation")
@click.option("--prompt-provider", default="measured", show_default=True, help="Who describes the photos.")
@part_options("prompt-provider")
@click.option("--upscaler", help="Enlarge the degraded photos ahead, for a model that is trained with this upscaler.")
@part_options("upscaler")
@click.option("--sharpen", is_flag=True, help="Sharpen the photos before they are degraded and stored.")
@click.option("--crop", type=click.IntRange(min=16), help="Cut photos into crops of so many pixels. Default: whole.")
@click.option("--crops-a-photo", type=click.IntRange(min=1), help="At most so many crops of a photo, at random.")
@click.option("--variants", type=click.IntRange(min=1), default=1, show_default=True, help="Degradations of each.")
@click.option("--photos-a-shard", type=click.IntRange(min=1), default=32, show_default=True, help="Photos in a shard.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of degradations and crops.")
@click.option("--workers", type=click.IntRange(min=1), default=1, show_default=True, help="Processes.")
def prepare(
    photos: Path,
    output: Path,
    form: Literal["shards", "pairs"],
    degradation: str,
    workers: int,
    photos_a_shard: int,
    **choices: Any,
) -> None:
    """Degrade the sharp PHOTOS, describe both versions, and write them as training data.

    A call that was stopped is finished by the same call: shards that are there stay as they are.
    """
    from xpsr_sdk.preparation.prepare import prepare_pairs, prepare_shards

    choices |= {"degradation": None if degradation == "none" else degradation, "workers": workers}
    for flag in ("degradation", "prompt-provider", "upscaler"):
        kind = flag.replace("-", "_")
        choices[kind] = with_options(flag, choices[kind], choices.pop(f"{kind}_option"))
    with progress_bar() as bar:
        task = bar.add_task("preparing", total=None)
        choices["progress"] = lambda done, total: bar.update(task, completed=done, total=total)
        if form == "shards":
            report = prepare_shards(photos, output, photos_a_shard=photos_a_shard, **choices)
        else:
            report = prepare_pairs(photos, output, **choices)
    _print(report, output)
    if not report.samples:
        raise click.exceptions.Exit(1)


def _print(report: Prepared, output: Path) -> None:
    for photo, reason in report.failed.items():
        click.echo(f"Left out: {photo}: {reason}" if str(photo) not in reason else f"Left out: {reason}", err=True)
    for photo, count in report.flat.items():
        click.echo(f"Left out: {photo}: {count} flat crops", err=True)
    for photo, reason in report.unprompted.items():
        click.echo(f"Prompts are missing: {photo}: {reason}", err=True)
    counts = Counter(report.causes.values())
    if flat := sum(report.flat.values()):
        counts["flat crops"] = flat
    left_out = f"; left out: {', '.join(f'{n} {cause}' for cause, n in sorted(counts.items()))}" if counts else ""
    click.echo(f"{report.samples} samples are in {output}{left_out}")
