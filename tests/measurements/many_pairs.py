"""Evaluate many pairs in a command that is killed again and again, and compare with a run that was not.

    python -m tests.measurements.many_pairs FOLDER --pairs 1000 --kills 5

Small photos are made in FOLDER. ``xpsr evaluate --scores`` measures them, and is killed with SIGKILL as soon as it has
stored another share of the figures. Told are the seconds of each run, how many figures each one added, and whether the
figures at the end are those of a run that was not killed.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import click
import numpy as np
from PIL import Image

METRICS = "psnr,ssim"


def make_pairs(folder: Path, count: int, side: int = 64) -> None:
    """Write ``HR`` and ``SR``: noise of a few sizes, and the same with more noise."""
    random = np.random.default_rng(0)
    for name in ("HR", "SR"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for number in range(count):
        shape = (side, side + 8 * (number % 3), 3)
        sharp = random.integers(0, 256, shape)
        noisy = np.clip(sharp + random.normal(0, 1 + number % 20, shape), 0, 255)
        for name, pixels in (("HR", sharp), ("SR", noisy)):
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{number:05}.png", compress_level=1)


def evaluate(folder: Path, scores: Path, figures: Path) -> subprocess.Popen[bytes]:
    """The command, running."""
    options = ["--metrics", METRICS, "--scores", str(scores), "--json", str(figures), "--quiet"]
    program = [sys.executable, "-m", "xpsr_sdk", "evaluate", str(folder / "SR"), str(folder / "HR"), *options]
    return subprocess.Popen(program, stdout=subprocess.DEVNULL)


def stored(scores: Path) -> int:
    """How many figures a file holds."""
    return scores.read_bytes().count(b"\n") if scores.exists() else 0


@click.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--pairs", default=1000, show_default=True)
@click.option("--kills", default=5, show_default=True)
def main(folder: Path, pairs: int, kills: int) -> None:
    """Run the measurement in FOLDER."""
    make_pairs(folder, pairs)
    scores, whole = folder / "scores.jsonl", 2 * pairs
    for kill in range(kills):
        before, begun = stored(scores), time.monotonic()
        running = evaluate(folder, scores, folder / "figures.json")
        while stored(scores) < whole * (kill + 1) // (kills + 1) and running.poll() is None:
            time.sleep(0.01)
        running.kill()
        running.wait()
        click.echo(f"killed after {time.monotonic() - begun:.1f} s: {stored(scores) - before} figures added")
    for name, file in (("resumed", scores), ("never killed", folder / "other.jsonl"), ("again", scores)):
        before, begun = stored(file), time.monotonic()
        code = evaluate(folder, file, folder / f"{name}.json").wait()
        took = time.monotonic() - begun
        click.echo(f"{name}: {took:.1f} s, exit code {code}, {stored(file) - before} figures added")
    results = [json.loads((folder / f"{name}.json").read_text()) for name in ("resumed", "never killed", "again")]
    click.echo(f"the same figures: {results[0] == results[1] == results[2]}; photos: {len(results[0]['images'])}")


if __name__ == "__main__":
    main()
