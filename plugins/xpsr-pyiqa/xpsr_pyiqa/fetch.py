"""Gathers the weights of metrics in a folder, for machines without a network.

    python -m xpsr_pyiqa.fetch lpips maniqa-pipal fid -o metric_weights

What torch's cache lacks is downloaded into it first.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import click
import torch

from xpsr_pyiqa.weights import WeightFiles


@click.command()
@click.argument("metrics", nargs=-1, required=True)
@click.option("-o", "--output", type=click.Path(file_okay=False, path_type=Path), required=True, help="The folder.")
def fetch(metrics: tuple[str, ...], output: Path) -> None:
    """Copy the files of weights of METRICS, by their names in pyiqa, to a folder."""
    output.mkdir(parents=True, exist_ok=True)
    for metric in metrics:
        files = WeightFiles(None)
        files.build("fid" if metric == "kid" else metric, torch.device("cpu"))
        for file in files.files:
            if not (output / file.name).exists():
                shutil.copyfile(file, output / file.name)
        click.echo(f"{metric}: {', '.join(file.name for file in files.files) or 'needs no files'}")


if __name__ == "__main__":
    fetch()
