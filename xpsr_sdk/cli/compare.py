"""``xpsr compare``: methods on data sets, from a file."""

from __future__ import annotations

from pathlib import Path

import click

from xpsr_sdk.benchmark.protocol import Protocol
from xpsr_sdk.cli.progress import progress_bar
from xpsr_sdk.cli.terminal import print_table, quiet_libraries
from xpsr_sdk.config import read_toml


@click.command()
@click.argument("config", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("overrides", nargs=-1, metavar="[FIELD=VALUE]...")
def compare(config: Path, overrides: tuple[str, ...]) -> None:
    """Restore the photos of data sets with several methods, measure them, and write reports.

    CONFIG is a TOML file, whose fields can be changed on the command line: metrics='["quick"]'. What is restored or
    measured already is not done again. What fails is told, and the exit code is 1.
    """
    protocol = read_toml(Protocol, config, overrides)
    quiet_libraries()
    from xpsr_sdk.benchmark.compare import run_protocol  # after the config is checked, since it loads torch

    with progress_bar() as bar:
        task = bar.add_task("", total=None)
        found, problems = run_protocol(
            protocol,
            progress=lambda what, done, total: bar.update(task, description=what, completed=done, total=total),
        )
    for name, comparison in found.items():
        click.echo(f"\n{name}")
        print_table(comparison.table())
        click.echo(f"Written: {protocol.output / name / 'report.html'}")
    for problem in problems:
        click.echo(f"Failed: {problem}", err=True)
    if problems:
        click.get_current_context().exit(1)
