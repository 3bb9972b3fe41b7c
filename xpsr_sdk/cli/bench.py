"""``xpsr bench``: how much faster the optimizations of the engine are on this machine."""

from __future__ import annotations

import json
import platform
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from xpsr_sdk.cli.options import setting
from xpsr_sdk.cli.progress import progress_bar
from xpsr_sdk.cli.terminal import print_table, quiet_libraries
from xpsr_sdk.config import Compile, Dtype, PipelineConfig
from xpsr_sdk.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    import torch

    from xpsr_sdk import Pipeline
    from xpsr_sdk.benchmark.bench import Measurement

RANDOM = "random-sd15"


@click.command()
@click.option(
    "--model", default=RANDOM, show_default=True, help=f"As for upscale, or {RANDOM}: full size, random weights."
)
@setting(PipelineConfig, "checkpoint")
@click.option("--size", "sizes", type=click.IntRange(64, 16384), multiple=True, help="Side of the result.  [256]")
@click.option("--batch", "batches", type=click.IntRange(1, 64), multiple=True, help="Photos at a time.  [1]")
@click.option("--dtype", "dtypes", type=click.Choice(get_args(Dtype)), multiple=True, help="Precision.  [bfloat16]")
@setting(PipelineConfig, "num_inference_steps", "--steps")
@setting(PipelineConfig, "guidance_scale", "--guidance")
@click.option(
    "--rounds",
    type=click.IntRange(1, 100),
    default=3,
    show_default=True,
    help="How often each variant is timed; the median counts.",
)
@click.option("--only", multiple=True, help="Names of the variants to measure; the first is the baseline.  [all]")
@click.option("--compile", "mode", type=click.Choice(get_args(Compile)), help="Measure compiled networks too.")
@setting(PipelineConfig, "device")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="File for all figures.")
@click.option("--plot", "plot_file", type=click.Path(path_type=Path), help="File for a picture of them.")
def bench(
    model: str,
    checkpoint: Path | None,
    sizes: tuple[int, ...],
    batches: tuple[int, ...],
    dtypes: tuple[Dtype, ...],
    rounds: int,
    only: tuple[str, ...],
    mode: Compile | None,
    device: str | None,
    json_file: Path | None,
    plot_file: Path | None,
    **settings: Any,
) -> None:
    """Measure how much faster each optimization of the engine is.

    The variants take turns, and each is compared with the baseline, which works like the published implementation of
    XPSR: one photo and one tile per pass, no caches, training heads included, no compilation.
    """
    quiet_libraries()
    from xpsr_sdk.benchmark.bench import as_records, measure
    from xpsr_sdk.benchmark.variants import variants

    chosen = variants(mode)
    known = {variant.name: variant for variant in chosen}
    for name in only:
        if name not in known:
            raise ConfigError(f"There is no variant {name!r}. {did_you_mean(name, known)}")
    chosen = [known[name] for name in only] or chosen
    measured: list[Measurement] = []
    default: tuple[Dtype, ...] = ("bfloat16",)
    cases = list(product(dtypes or default, sizes or (256,), batches or (1,)))
    with progress_bar() as bar:
        task = bar.add_task("", total=len(cases) * (len(chosen) * (rounds + 1) + 1))
        pipeline: Pipeline | None = None
        for dtype, size, batch in cases:
            if pipeline is None or str(pipeline.unet.dtype) != f"torch.{dtype}":
                pipeline = None  # frees the memory of the last one, which the next one needs
                bar.update(task, description="building")
                pipeline = _build(model, checkpoint, dtype, device)
            measured += measure(
                pipeline,
                chosen,
                size=size,
                batch=batch,
                rounds=rounds,
                settings=settings,
                progress=lambda name: bar.update(task, description=name, advance=1),
            )
            if json_file:  # written after each case, since the next case may be too large for the machine
                machine = _machine(pipeline.unet.device)
                record = {"machine": machine, "model": model, "measured": as_records(measured)}
                json_file.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    _print(measured)
    if plot_file:
        _plot(measured, plot_file)


def _build(model: str, checkpoint: Path | None, dtype: Dtype, device: str | None) -> Pipeline:
    import torch

    from xpsr_sdk import build_pipeline
    from xpsr_sdk.benchmark.random_model import random_stable_diffusion
    from xpsr_sdk.hardware.devices import find_device

    if model == RANDOM:
        return random_stable_diffusion(find_device(device), getattr(torch, dtype))
    return build_pipeline(model=model, checkpoint=checkpoint, dtype=dtype, device=device)


def _machine(device: torch.device) -> dict[str, Any]:
    import torch

    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "capability": torch.backends.cpu.get_cpu_capability(),
    }


def _print(measured: list[Measurement]) -> None:
    from rich.table import Table

    table = Table()
    headings = (
        "variant",
        "size",
        "batch",
        "dtype",
        "steps",
        "s a photo",
        "times as fast",
        "of peak",
        "MiB",
        "dB to exact",
    )
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "variant" else "right")
    for each in measured:
        table.add_row(
            each.variant,
            str(each.size),
            str(each.batch),
            each.dtype,
            str(each.steps),
            f"{each.seconds:.2f}",
            f"{each.times_baseline:.2f}",
            "" if each.share_of_peak is None else f"{each.share_of_peak:.0%}",
            f"{each.peak_bytes / 2**20:.0f}",
            "" if each.psnr_to_exact is None else f"{each.psnr_to_exact:.1f}",
        )
    print_table(table)


def _plot(measured: list[Measurement], file: Path) -> None:
    """Draw a bar for each variant: its speed relative to the baseline."""
    from xpsr_sdk.evaluation.plots import pyplot

    drawing = pyplot()
    if drawing is None:
        raise ConfigError("--plot needs matplotlib: pip install 'xpsr-sdk[plot]'.")
    names = [f"{m.variant} ({m.size}², batch {m.batch}, {m.dtype})" for m in measured]
    figure, axes = drawing.subplots(figsize=(9, 0.3 * len(names) + 1), layout="constrained")
    bars = axes.barh(names, [m.times_baseline for m in measured])
    axes.bar_label(bars, fmt="%.2f", padding=3)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xlabel("times as fast as the baseline")
    axes.invert_yaxis()
    figure.savefig(file, dpi=120)
    drawing.close(figure)
