"""``xpsr evaluate``: compare restored photos with their originals."""

from __future__ import annotations

from pathlib import Path

import click

from xpsr_sdk.builtin.pixel_metrics import Channel
from xpsr_sdk.cli.terminal import print_table, progress_bar
from xpsr_sdk.data.images import write_whole
from xpsr_sdk.evaluation.report import METRICS, evaluate_folders


@click.command()
@click.argument("pred", type=click.Path(exists=True, path_type=Path))
@click.argument("hr", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--metrics",
    default="psnr,ssim",
    show_default=True,
    help=f"Comma-separated list of {', '.join(METRICS)}; the last two need the extra xpsr-sdk[metrics].",
)
@click.option(
    "--channel",
    type=click.Choice(["y", "rgb"]),
    default="y",
    show_default=True,
    help="What PSNR and SSIM measure: luma, or all three channels.",
)
@click.option(
    "--crop",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Pixels left out at each side, for every metric.",
)
@click.option(
    "--weights",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder with the weights of LPIPS and DISTS, to be used instead of a download.",
)
@click.option("--device", default="cpu", show_default=True, help="Where LPIPS and DISTS are computed.")
@click.option(
    "--json",
    "json_file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the figures there too.",
)
def evaluate(
    pred: Path,
    hr: Path,
    metrics: str,
    channel: Channel,
    crop: int,
    weights: Path | None,
    device: str,
    json_file: Path | None,
) -> None:
    """Compare the restored photos in PRED with the originals in HR.

    PRED and HR are folders, whose files are paired by name, or two files.
    """
    names = [name.strip() for name in metrics.split(",") if name.strip()]
    with progress_bar() as bar:
        task = bar.add_task("measuring", total=None)
        report = evaluate_folders(
            pred,
            hr,
            metrics=names,
            channel=channel,
            crop=crop,
            weights=weights,
            device=device,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    print_table(report.table())
    if json_file is not None:
        content = (report.to_json() + "\n").encode()
        write_whole(json_file, lambda file: file.write(content))
        click.echo(f"Written: {json_file}")
