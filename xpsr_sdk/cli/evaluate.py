"""``xpsr evaluate``: restored photos against their originals, and methods against each other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from xpsr_sdk.cli.places import Place
from xpsr_sdk.cli.progress import photo_progress
from xpsr_sdk.cli.runner_options import runner_options
from xpsr_sdk.cli.terminal import (
    complain,
    is_quiet,
    print_table,
    quiet_libraries,
    quiet_option,
    say,
    warnings_on_stderr,
)
from xpsr_sdk.config import set_override
from xpsr_sdk.evaluation.presets import PRESETS, axes_of_plot, metric_names
from xpsr_sdk.files.writing import write_whole
from xpsr_sdk.runners.work import Runner

if TYPE_CHECKING:
    from xpsr_sdk.builtin.pixel_metrics import Channel
    from xpsr_sdk.evaluation.chosen import ChosenMetric
    from xpsr_sdk.evaluation.comparison import Comparison
    from xpsr_sdk.evaluation.report import Report

FOLDER = Place(exists=True, file_okay=False)
FILE = Place(dir_okay=False)


@click.command()
@click.argument("photos", nargs=-1, required=True, type=Place(exists=True))
@click.option("--reference", type=FOLDER, help="Folder of the originals; all PHOTOS are then methods to compare.")
@click.option("--input", "degraded", type=FOLDER, help="Folder of the degraded photos, to be shown in the report.")
@click.option(
    "--metrics",
    default="psnr,ssim",
    show_default=True,
    help="Comma-separated names of metrics (xpsr plugins lists them: psnr, ssim, niqe; with the plug-in xpsr-pyiqa "
    f"lpips, dists, musiq, fid and many more), or of presets: {', '.join(PRESETS)}.",
)
@click.option(
    "--metric-option",
    "metric_options",
    multiple=True,
    metavar="METRIC.KEY=VALUE",
    help="An option of one of the metrics: psnr.channel=rgb. Every metric has the option crop. Can be repeated.",
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
    help="Pixels left out at each side, for every metric without a crop of its own.",
)
@click.option(
    "--weights",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder with the weights of metrics, to be used instead of downloads.",
)
@click.option("--device", default="cpu", show_default=True, help="Where metrics are computed.")
@click.option(
    "--batch",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="How many photos of one size are measured together.",
)
@runner_options
@click.option(
    "--scores",
    type=FILE,
    help="File of figures: those that were computed before are read there, and new ones are added at once.",
)
@click.option(
    "--log",
    "logs",
    type=Place(exists=True, dir_okay=False),
    multiple=True,
    help="Log of xpsr upscale, of which the report takes times and prompts. Can be repeated.",
)
@click.option("--json", "json_file", type=FILE, help="Write the figures there too.")
@click.option("--report", "page", type=FILE, help="Write an HTML page with figures, plots and pictures.")
@click.option(
    "--report-images",
    type=click.Choice(["embed", "folder"]),
    default="embed",
    show_default=True,
    help="Where the pictures of the page are: in it, or in a folder beside it.",
)
@click.option("--table", "tables", type=FILE, multiple=True, help="Write a table: .csv, .md or .tex. Can be repeated.")
@click.option(
    "--plot", "plots", type=FILE, multiple=True, help="Write the plot of perception and distortion: .svg, .png or .pdf."
)
@quiet_option
def evaluate(
    photos: tuple[Path, ...],
    reference: Path | None,
    degraded: Path | None,
    metrics: str,
    metric_options: tuple[str, ...],
    channel: Channel,
    crop: int,
    weights: Path | None,
    device: str,
    batch: int,
    runner: Runner,
    scores: Path | None,
    logs: tuple[Path, ...],
    json_file: Path | None,
    page: Path | None,
    report_images: str,
    tables: tuple[Path, ...],
    plots: tuple[Path, ...],
) -> None:
    """Compare restored photos with the originals, and methods with each other.

    \b
    xpsr evaluate PRED HR                    one folder (or photo) of results
    xpsr evaluate A B C --reference HR       several methods on the same photos
    xpsr evaluate A B --metrics niqe         without originals

    Without --reference, the second of two folders holds the originals if a metric needs them. Files are paired by name.
    The first method is the one that the others are compared with. A photo that cannot be
    read, and a metric whose weights are missing, are told on standard error, and the exit code is 1; all else is
    measured.
    """
    quiet_libraries()
    from xpsr_sdk.evaluation.choosing import choose_metrics  # imported late, to keep --help quick
    from xpsr_sdk.evaluation.comparison import Comparison, compare_folders
    from xpsr_sdk.evaluation.report import evaluate_folders
    from xpsr_sdk.plugin_system.registry import default_registry

    names = [name.strip() for name in metrics.split(",") if name.strip()]
    options: dict[str, Any] = {}
    for option in metric_options:
        if "." not in option.partition("=")[0]:
            raise click.UsageError(f"--metric-option {option}: write METRIC.KEY=VALUE, for instance psnr.channel=rgb.")
        set_override(options, option)
    _check_outputs(tables, plots, names)
    registry = default_registry()
    with warnings_on_stderr():
        chosen, skipped = choose_metrics(names, registry, crop=crop, options=options, channel=channel, weights=weights)
    settings: dict[str, Any] = {
        "metrics": chosen, "channel": channel, "crop": crop, "weights": weights, "device": device, "batch": batch,
        "runner": runner, "scores": scores, "registry": registry,
    }  # fmt: skip
    methods = list(photos)
    if len(methods) == 2 and reference is None and _second_is_reference(methods, chosen, skipped):
        reference = methods.pop()
        say(f"{reference} is taken as the originals of {methods[0]}.", err=True)
    alone = len(methods) == 1 and reference is not None and not (page or tables or plots or degraded or logs)
    result: Report | Comparison
    with photo_progress("measuring") as shown, warnings_on_stderr():
        settings |= {"progress": shown.tell, "on_failure": shown.fail}
        if alone and reference is not None:
            result = evaluate_folders(methods[0], reference, **settings)
        else:
            result = compare_folders(methods, reference=reference, input=degraded, logs=logs, **settings)
    result = replace(result, skipped=skipped | dict(result.skipped))
    if not is_quiet():
        print_table(result.table())
    if json_file is not None:
        _write(json_file, result.to_json() + "\n")
    problems = [f"Not measured: {problem}" for problem in result.problems()]
    if isinstance(result, Comparison):
        problems += _write_outputs(result, page, report_images == "folder", tables, plots)
    for problem in problems:
        complain(problem)
    if problems:
        click.get_current_context().exit(1)


def _second_is_reference(photos: list[Path], chosen: list[ChosenMetric], skipped: dict[str, str]) -> bool:
    """Whether the second of two folders holds originals. Of a metric that could not be built, nobody knows: yes."""
    return bool(skipped) or any(c.metric.needs_reference for c in chosen) or any(path.is_file() for path in photos)


def _check_outputs(tables: tuple[Path, ...], plots: tuple[Path, ...], metrics: list[str]) -> None:
    """Before anything is measured."""
    from xpsr_sdk.evaluation.plots import pyplot
    from xpsr_sdk.evaluation.tables import check_table_file

    for file in tables:
        check_table_file(file)
    if wrong := [file for file in plots if file.suffix.lower() not in (".svg", ".png", ".pdf")]:
        raise click.UsageError(f"{wrong[0]}: a plot is written as .svg, .png or .pdf.")
    if plots and pyplot() is None:
        raise click.UsageError("--plot needs matplotlib: pip install 'xpsr-sdk[plot]'.")
    if plots and axes_of_plot(metric_names(metrics)) is None:
        raise click.UsageError(
            "--plot needs a metric of fidelity and a perceptual one, for instance --metrics psnr,lpips."
        )


def _write_outputs(
    comparison: Comparison, page: Path | None, image_folder: bool, tables: tuple[Path, ...], plots: tuple[Path, ...]
) -> list[str]:
    """Write what is asked for; a line for each plot that cannot be drawn is returned."""
    from xpsr_sdk.evaluation.page import write_page
    from xpsr_sdk.evaluation.plots import trade_off
    from xpsr_sdk.evaluation.tables import table_text

    for file in tables:
        _write(file, table_text(comparison, file))
    if page is not None:
        write_page(comparison, page, image_folder=image_folder)
        say(f"Written: {page}")
    problems = []
    for file in plots:
        drawn = trade_off(comparison, file.suffix.lower().removeprefix("."))
        if drawn is None:
            problems.append(f"Not drawn: {file}: a metric of fidelity and a perceptual one must both be measured.")
        else:
            _write(file, drawn)
    return problems


def _write(file: Path, content: str | bytes) -> None:
    data = content.encode("utf-8", "replace") if isinstance(content, str) else content
    write_whole(file, lambda out: out.write(data))
    say(f"Written: {file}")
