"""``xpsr train``: train a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from xpsr_sdk.cli.interrupts import interrupts
from xpsr_sdk.cli.progress import progress_bar
from xpsr_sdk.cli.terminal import (
    is_first_process,
    leave_processes,
    print_table,
    quiet_libraries,
    quiet_option,
    say,
    warnings_on_stderr,
)
from xpsr_sdk.config import read_toml

if TYPE_CHECKING:
    from xpsr_sdk.training.config import TrainConfig


@click.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1)
@click.option("--dry-run", is_flag=True, help="Print what would be trained, the memory and the time; write nothing.")
@quiet_option
def train(config: Path, overrides: tuple[str, ...], dry_run: bool) -> None:
    """Train with the TOML file CONFIG. It continues where an earlier run with the same output stopped.

    Ctrl-C and SIGTERM stop after the current step, with a checkpoint.

    OVERRIDES replace single fields: steps=1000 model.fusion=serial

    With several GPUs: accelerate launch -m xpsr_sdk train CONFIG
    """
    from xpsr_sdk.training.config import TrainConfig

    run = read_toml(TrainConfig, config, overrides)
    quiet_libraries()
    with warnings_on_stderr():
        (_print_dry_run if dry_run else _train)(run)
    leave_processes()


def _train(run: TrainConfig) -> None:
    from xpsr_sdk.training.loop import train as run_training  # after the config is checked, since it loads torch

    told = "Stopping after this step, with a checkpoint; Ctrl-C again stops at once."
    with progress_bar() as bar, interrupts(told) as wish:
        task = bar.add_task("training", total=run.steps)

        def show(step: int, values: dict[str, float]) -> None:
            bar.update(task, completed=step, description=f"loss {values['loss']:.4f}")

        last = run_training(run, on_step=show, should_stop=lambda: wish)
    if is_first_process():
        say(f"The last checkpoint is {last}")
    if wish and last.name != f"checkpoint-{run.steps}":
        leave_processes()
        raise click.exceptions.Exit(wish.exit_code)


def _print_dry_run(config: TrainConfig) -> None:
    from xpsr_sdk.training.dry_run import dry_run

    found = dry_run(config)
    if not is_first_process():
        return
    print_table(found.parameters())
    for sentence in found.sentences():
        click.echo(sentence)
