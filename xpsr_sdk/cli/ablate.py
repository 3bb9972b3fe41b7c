"""``xpsr ablate``: train with and without each part, and compare."""

from __future__ import annotations

from pathlib import Path

import click

from xpsr_sdk.cli.options import setting
from xpsr_sdk.cli.progress import progress_bar
from xpsr_sdk.cli.terminal import is_first_process, leave_processes, quiet_libraries, warnings_on_stderr
from xpsr_sdk.config import read_toml
from xpsr_sdk.training.config import TrainConfig


@click.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1)
@click.option(
    "--over",
    default="fusion,constraint,prompts",
    show_default=True,
    help="Comma-separated list of what is varied: fusion, constraint, prompts.",
)
@click.option("-o", "--output", type=click.Path(file_okay=False, path_type=Path), help="Default: the config's output.")
@setting(TrainConfig, "steps")
@click.option("--seeds", type=click.IntRange(min=1), default=1, show_default=True, help="Runs of each variant.")
def ablate(
    config: Path, overrides: tuple[str, ...], over: str, output: Path | None, steps: int | None, seeds: int
) -> None:
    """Train with the TOML file CONFIG, once as it is and once with each change, and compare on held-out images.

    OVERRIDES replace single fields: batch_size=2 validation.folders=['photos']. So does --steps.

    Writes ablation.md, ablation.json, ablation.png (which needs xpsr-sdk[plot]), a report with pictures (report.html)
    and a folder for each run. If it was stopped, the same command continues.
    """
    run = read_toml(TrainConfig, config, (*overrides, *([f"steps={steps}"] if steps else [])))
    output = output or run.output
    quiet_libraries()
    from xpsr_sdk.evaluation.plots import pyplot
    from xpsr_sdk.training import ablation  # after the config is checked, since it loads torch

    with warnings_on_stderr(), progress_bar() as bar:
        task = bar.add_task("training", total=None)
        result = ablation.ablate(
            run,
            [factor.strip() for factor in over.split(",") if factor.strip()],
            output,
            seeds=seeds,
            progress=lambda variant, done, total: bar.update(task, completed=done, total=total, description=variant),
        )
    leave_processes()
    if not is_first_process():
        return
    click.echo(result.table(), nl=False)
    if pyplot() is None:
        click.echo("There is no plot, because matplotlib is not installed: pip install 'xpsr-sdk[plot]'", err=True)
    click.echo(f"Written to {output}")
