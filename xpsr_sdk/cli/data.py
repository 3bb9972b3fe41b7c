"""``xpsr data``: what training needs."""

from __future__ import annotations

from pathlib import Path

import click

from xpsr_sdk.cli.output import progress_bar


@click.group()
def data() -> None:
    """Prepare the photos and prompts that training needs."""


@data.command()
@click.argument("photos", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "-o", "--output", required=True, type=click.Path(file_okay=False, path_type=Path), help="Folder of pairs."
)
@click.option("--degradation", default="realesrgan", show_default=True, help="Degradation model.")
@click.option("--prompt-provider", default="measured", show_default=True, help="Who describes the photos.")
@click.option("--sharpen", is_flag=True, help="Sharpen the photos before they are degraded and stored.")
@click.option("--variants", type=click.IntRange(min=1), default=1, show_default=True, help="Pairs a photo.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the degradations.")
@click.option("--workers", type=click.IntRange(min=1), default=1, show_default=True, help="Processes.")
def prepare(
    photos: Path,
    output: Path,
    degradation: str,
    prompt_provider: str,
    sharpen: bool,
    variants: int,
    seed: int,
    workers: int,
) -> None:
    """Degrade the sharp PHOTOS, describe both versions, and write them as training pairs."""
    from xpsr_sdk.data.prepare import prepare_pairs

    with progress_bar() as bar:
        task = bar.add_task("preparing", total=None)
        report = prepare_pairs(
            photos,
            output,
            degradation=degradation,
            prompt_provider=prompt_provider,
            sharpen=sharpen,
            variants=variants,
            seed=seed,
            workers=workers,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    for photo, reason in report.failed.items():
        click.echo(f"Left out: {photo}: {reason}" if str(photo) not in reason else f"Left out: {reason}", err=True)
    for photo, reason in report.unprompted.items():
        click.echo(f"Prompts are missing: {photo}: {reason}", err=True)
    click.echo(f"{report.pairs} pairs are in {output}")
    if not report.pairs:
        raise click.exceptions.Exit(1)
