"""Ablation: trains the model with and without each part of XPSR, and measures the results (``xpsr ablate``)."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from xpsr_sdk.config import load_config
from xpsr_sdk.errors import ConfigError, did_you_mean
from xpsr_sdk.evaluation.comparison import compare_folders
from xpsr_sdk.evaluation.page import write_page
from xpsr_sdk.evaluation.plots import pyplot
from xpsr_sdk.evaluation.report import decimals
from xpsr_sdk.files.writing import write_whole
from xpsr_sdk.plugin_system.registry import Registry, default_registry
from xpsr_sdk.training.config import TrainConfig
from xpsr_sdk.training.loop import train
from xpsr_sdk.training.models import trained_backbone
from xpsr_sdk.training.run_log import read_lines, write_numbered
from xpsr_sdk.training.validation import Validation

FULL = "full"
BICUBIC = "bicubic"
Changes = Mapping[str, Any]


def _fusions(config: TrainConfig, registry: Registry) -> dict[str, Changes]:
    own = config.model.fusion or "xpsr"
    own = own if isinstance(own, str) else own["name"]
    names = sorted({component.spec.name for component in registry.components("fusion_attention")} - {own})
    return {f"fusion: {name}": {"model.fusion": name} for name in names}


def _constraint(config: TrainConfig, registry: Registry) -> dict[str, Changes]:
    others = {label: term for label, term in config.loss.terms.items() if (term.name or label) != "constraint"}
    return {"without the constraint": {"loss.terms": others}}


def _prompts(config: TrainConfig, registry: Registry) -> dict[str, Changes]:
    return {
        "without high-level prompts": {"data.levels": ["low"]},
        "without low-level prompts": {"data.levels": ["high"]},
        "without prompts": {"data.levels": []},
    }


FACTORS: dict[str, Callable[[TrainConfig, Registry], dict[str, Changes]]] = {
    "fusion": _fusions, "constraint": _constraint, "prompts": _prompts
}  # fmt: skip
"""What can be varied. Each function returns its variants by name, with the fields of the config that they change."""


@dataclass(frozen=True)
class VariantScores:
    """The scores of a variant.

    Attributes:
        variant: Its name.
        scores: For each metric, one score per seed.
    """

    variant: str
    scores: dict[str, list[float]]

    def mean(self, metric: str) -> float:
        """The mean of a metric over the seeds."""
        return statistics.fmean(self.scores[metric])


@dataclass(frozen=True)
class Ablation:
    """The scores of all variants.

    Attributes:
        rows: Bicubic enlargement, the full model, then the variants.
        losses: For each variant, pairs (step, loss) of its first seed.
        steps: How many steps each variant was trained.
        images: The number of held-out images that the scores are averages of.
        lower_is_better: The metrics of which that is true.
    """

    rows: list[VariantScores]
    losses: dict[str, list[tuple[int, float]]]
    steps: int
    images: int
    lower_is_better: frozenset[str] = frozenset()

    def table(self) -> str:
        """A table in Markdown: means over the seeds, standard deviations, and differences to the full model."""
        metrics = list(self.rows[0].scores)
        full = next(row for row in self.rows if row.variant == FULL)
        lines = ["| variant | " + " | ".join(f"{name.upper()} | Δ" for name in metrics) + " |"]
        lines.append("|---" * (1 + 2 * len(metrics)) + "|")
        for row in self.rows:
            cells = [cell for name in metrics for cell in _cells(name, row, full)]
            lines.append(f"| {row.variant} | " + " | ".join(cells) + " |")
        return "\n".join(lines) + "\n"


def ablate(
    config: TrainConfig,
    over: Sequence[str],
    output: Path,
    *,
    seeds: int = 1,
    registry: Registry | None = None,
    progress: Callable[[str, int, int], object] = lambda variant, done, total: None,
) -> Ablation:
    """Train the model as it is and with each change, and compare the results.

    All variants are trained for the same number of steps on the same images. The function writes ``ablation.json``,
    ``ablation.md``, ``ablation.png``, a report with pictures (``report.html``) and a folder for each run to
    ``output``. Finished runs are not trained again, so the same call continues after it was stopped.

    Args:
        config: The run. Its validation section names the held-out images.
        over: Names of what to vary, keys of ``FACTORS``.
        output: Folder of the result.
        seeds: The number of runs of each variant. Their seeds count up from that of the config.
        registry: The registry in which components are looked up. None: the built-in and the installed plug-ins.
        progress: ``progress(variant, done, total)``, in steps.

    Raises:
        ConfigError: A factor is unknown, or there are no held-out images.
        XPSRError: As ``train``.
    """
    registry = registry or default_registry()
    if config.validation is None:
        raise ConfigError("There are no held-out images to measure: name them with validation.folders=[...].")
    variants = _variants(config, over, registry)
    total, done = config.steps * seeds * len(variants), 0
    rows, losses, restored = [], {}, {}
    for name, changes in variants.items():
        scores: dict[str, list[float]] = {}
        for seed in range(seeds):
            folder = output / _slug(name) / f"seed-{config.seed + seed}"
            run = _changed(config, changes, folder, config.seed + seed)
            begun = done

            def on_step(step: int, _: object, name: str = name, begun: int = begun) -> None:
                progress(name, begun + step, total)

            train(run, registry, on_step)
            done += config.steps
            figures = next(line for line in read_lines(folder / "validation.jsonl") if line["step"] == config.steps)
            for metric in figures:
                if metric != "step":
                    scores.setdefault(metric, []).append(figures[metric])
            label = name if seeds == 1 else f"{name}, seed {run.seed}"
            restored[label] = folder / "validation" / f"step-{config.steps}"
        rows.append(VariantScores(name, scores))
        log = read_lines(output / _slug(name) / f"seed-{config.seed}" / "log.jsonl")
        losses[name] = [(line["step"], line["loss"]) for line in log]
    validation = _validation(config, registry)
    figures, enlarged = validation.bicubic()
    baseline = VariantScores(BICUBIC, {metric: [figure] for metric, figure in figures.items()})
    lower = frozenset(chosen.name for chosen in validation.metrics if chosen.metric.lower_is_better)
    result = Ablation([baseline, *rows], losses, config.steps, config.validation.images, lower)
    _write(result, output)
    _write_report(validation, {BICUBIC: enlarged}, restored, output, registry)
    return result


def _variants(config: TrainConfig, over: Sequence[str], registry: Registry) -> dict[str, Changes]:
    variants: dict[str, Changes] = {FULL: {}}
    for factor in over:
        if factor not in FACTORS:
            raise ConfigError(f"--over: {factor!r} cannot be varied. {did_you_mean(factor, FACTORS)}")
        found = FACTORS[factor](config, registry)
        if not found:
            raise ConfigError(f"--over: there is only one {factor}, so it cannot be varied: install a plug-in for it.")
        variants |= found
    return variants


def _changed(config: TrainConfig, changes: Changes, output: Path, seed: int) -> TrainConfig:
    """The config of a variant, with one checkpoint and one validation at its end."""
    values = config.model_dump(exclude_unset=True)
    values |= {"output": output, "seed": seed, "checkpoint_every": config.steps, "keep_checkpoints": 1}
    values["log_every"] = min(config.log_every, config.steps)
    values["validation"] |= {"every": config.steps, "keep": True}
    for field, value in changes.items():
        section, _, name = field.partition(".")
        values.setdefault(section, {})[name] = value
    return load_config(TrainConfig, values, "The variant")


def _validation(config: TrainConfig, registry: Registry) -> Validation:
    """The held-out images and the metrics of the runs."""
    backbone = registry.create("backbone", trained_backbone(config.model))
    backbone.load(config.model.base_folder, torch.float32, from_scratch=config.model.from_scratch)
    return Validation(config, backbone, registry)


def _write_report(
    validation: Validation,
    enlarged: Mapping[str, Sequence[Image.Image]],
    restored: Mapping[str, Path],
    output: Path,
    registry: Registry,
) -> None:
    """The report of ``xpsr evaluate`` on the held-out images; runs that kept no images are left out.

    Raises:
        ImageError: A file cannot be written.
    """
    held_out = output / "held-out"
    pictures = {"hr": [image.hr for image in validation.images], "lr": [image.lr for image in validation.images]}
    for name, images in {**pictures, **enlarged}.items():
        write_numbered(images, held_out / name)
    kept = {name: folder for name, folder in restored.items() if folder.is_dir()}
    methods = kept | {name: held_out / name for name in enlarged}
    found = compare_folders(
        methods,
        reference=held_out / "hr",
        input=held_out / "lr",
        metrics=validation.metrics,
        registry=registry,
    )
    write_page(found, output / "report.html")


def _cells(metric: str, row: VariantScores, full: VariantScores) -> tuple[str, str]:
    places, values = decimals(full.mean(metric)), row.scores[metric]
    spread = f" ± {statistics.stdev(values):.{places}f}" if len(values) > 1 else ""
    difference = "" if row is full else f"{row.mean(metric) - full.mean(metric):+.{places}f}"
    return f"{row.mean(metric):.{places}f}{spread}", difference


def _write(result: Ablation, output: Path) -> None:
    content = {"steps": result.steps, "images": result.images, "rows": [asdict(row) for row in result.rows]}
    for name, text in {"ablation.json": json.dumps(content, indent=2) + "\n", "ablation.md": result.table()}.items():
        write_whole(output / name, lambda file, text=text: file.write(text.encode()))  # type: ignore[misc]
    if pyplot() is not None:
        _plot(result, output / "ablation.png")


def _plot(result: Ablation, file: Path) -> None:
    """Plot the losses in one panel, and each metric in another, with a bar for each variant."""
    drawing, metrics = pyplot(), list(result.rows[0].scores)
    figure, (curves, *panels) = drawing.subplots(1, 1 + len(metrics), figsize=(5 * (1 + len(metrics)), 4))
    for name, points in result.losses.items():
        curves.plot(*zip(*points, strict=True), label=name, linewidth=1)
    curves.set(title="loss", xlabel="step")
    curves.legend(fontsize="x-small")
    names = [row.variant for row in result.rows]
    for panel, metric in zip(panels, metrics, strict=True):
        means = [row.mean(metric) for row in result.rows]
        errors = [statistics.stdev(s) if len(s := row.scores[metric]) > 1 else 0.0 for row in result.rows]
        panel.barh(names, means, xerr=errors, color=["0.7", "C0", *["C1"] * (len(names) - 2)])
        low, high = min(means), max(means)
        panel.set_xlim(low - 0.5 * (high - low) - 1e-3, high + 0.2 * (high - low) + 1e-3)
        panel.invert_yaxis()
        better = "lower" if metric in result.lower_is_better else "higher"
        panel.set_title(f"{metric.upper()} ({better} is better)")
    figure.tight_layout()
    write_whole(file, lambda out: figure.savefig(out, dpi=100, format="png"))
    drawing.close(figure)


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
