"""Plots the logs of nano's runs.

    python examples/train_nano/plot_log.py runs/nano-*/log.jsonl -o docs/images/nano-log.png

Needs the extra ``xpsr-sdk[plot]``. Each term is drawn as logged (thin) and as its running mean (thick).
"""

from __future__ import annotations

import json
import math
from argparse import ArgumentParser
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

TERMS = {
    "loss_diffusion": "diffusion",
    "loss_constraint_pixel": "constraint, pixels",
    "loss_constraint_latent": "constraint, latents",
    "loss_perceptual": "perceptual",
}
WINDOW = 15
"""Logged steps that a running mean spans."""


def read_log(file: Path) -> list[dict[str, float]]:
    """The lines of a log in the order of their steps; of a step that was logged again after a resume, the last."""
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line]
    return sorted({line["step"]: line for line in lines}.values(), key=lambda line: line["step"])


def running_mean(values: list[float]) -> list[float]:
    """Of each value and up to ``WINDOW`` - 1 before it."""
    windows = (values[max(0, i + 1 - WINDOW) : i + 1] for i in range(len(values)))
    return [sum(window) / len(window) for window in windows]


def main() -> None:
    parser = ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("logs", type=Path, nargs="+")
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    columns = min(3, len(arguments.logs))
    rows = math.ceil(len(arguments.logs) / columns)
    figure, plots = plt.subplots(rows, columns, figsize=(6 * columns, 4 * rows), squeeze=False)
    for plot, file in zip(plots.flat, arguments.logs, strict=False):
        log = read_log(file)
        steps = [line["step"] for line in log]
        for i, (term, label) in enumerate(TERMS.items()):
            if term in log[0]:
                values = [line[term] for line in log]
                plot.plot(steps, values, color=f"C{i}", linewidth=0.5, alpha=0.4)
                plot.plot(steps, running_mean(values), color=f"C{i}", label=label)
        plot.set(title=file.parent.name, xlabel="step", ylabel="term of the loss")
        plot.legend()
    figure.tight_layout()
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(arguments.output, dpi=100)
    print(arguments.output)


if __name__ == "__main__":
    main()
