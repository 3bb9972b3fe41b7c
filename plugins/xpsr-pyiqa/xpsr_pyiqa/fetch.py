"""Gathers the weights of metrics in a folder, for machines without a network.

    python -m xpsr_pyiqa.fetch lpips maniqa-pipal fid -o metric_weights

What torch's cache lacks is downloaded into it first.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import torch

from xpsr_pyiqa.metric import settings_of
from xpsr_pyiqa.weights import WeightFiles
from xpsr_sdk import XPSRError


@click.command()
@click.argument("metrics", nargs=-1, required=True)
@click.option("-o", "--output", type=click.Path(file_okay=False, path_type=Path), required=True, help="The folder.")
def fetch(metrics: tuple[str, ...], output: Path) -> None:
    """Copy the files of weights of METRICS, by their names in pyiqa, to a folder."""
    try:
        for metric in metrics:
            if metric not in ("fid", "kid"):
                settings_of(metric)
        output.mkdir(parents=True, exist_ok=True)
        for metric in metrics:
            files = WeightFiles(None)
            files.build("fid" if metric == "kid" else metric, torch.device("cpu"))
            for file in files.files:
                _copy(file, output)
            click.echo(f"{metric}: {', '.join(file.name for file in files.files) or 'needs no files'}")
    except (XPSRError, OSError) as error:
        raise click.ClickException(str(error)) from error


def _copy(file: Path, folder: Path) -> None:
    """Copy a file unless the folder has it. A copy that is interrupted leaves no incomplete file of that name."""
    target = folder / file.name
    if target.exists() and target.stat().st_size == file.stat().st_size:
        return
    with TemporaryDirectory(dir=folder) as unfinished:
        shutil.copyfile(file, Path(unfinished, file.name)).replace(target)


if __name__ == "__main__":
    fetch()
