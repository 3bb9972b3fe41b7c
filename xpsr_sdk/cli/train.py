"""``xpsr train``: train a model."""

from __future__ import annotations

from pathlib import Path

import click

from xpsr_sdk.cli.output import progress_bar, quiet_libraries
from xpsr_sdk.config import read_toml


@click.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1)
def train(config: Path, overrides: tuple[str, ...]) -> None:
    """Train as the TOML file CONFIG says, going on where an earlier run with the same output stopped.

    OVERRIDES replace single fields: steps=1000 model.fusion=serial
    """
    from xpsr_sdk.training.config import TrainConfig

    run = read_toml(TrainConfig, config, overrides)
    quiet_libraries()
    from xpsr_sdk.training.loop import train as run_training  # after the config is checked, since it loads torch

    with progress_bar() as bar:
        task = bar.add_task("training", total=run.steps)

        def show(step: int, losses: dict[str, float]) -> None:
            bar.update(task, completed=step, description=f"loss {losses['loss']:.4f}")

        last = run_training(run, on_step=show)
    click.echo(f"The last checkpoint is {last}")
