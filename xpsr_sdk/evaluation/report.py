"""The figures of one folder of restored photos."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path

import torch
from rich.table import Table

from xpsr_sdk.builtin.pixel_metrics import Channel
from xpsr_sdk.evaluation.choosing import MetricChoice
from xpsr_sdk.evaluation.chosen import LEFT_OUT, ChosenMetric
from xpsr_sdk.evaluation.matching import match
from xpsr_sdk.evaluation.scores import FolderScores, ImageScores
from xpsr_sdk.evaluation.scoring import score
from xpsr_sdk.evaluation.setup import scoring_work
from xpsr_sdk.files.remote import place
from xpsr_sdk.plugin_system.registry import Registry
from xpsr_sdk.runners.local import LocalRunner
from xpsr_sdk.runners.work import Runner


@dataclass(frozen=True)
class Report:
    """The figures of a folder, and how they were measured.

    Attributes:
        rows: One for each image that could be read, sorted by name.
        settings: For each metric, what exactly was computed, by which implementation and with which weights.
        crop: Pixels left out at each side, for every metric.
        whole: Figures of the whole folder, for metrics that have no figure for an image.
        failures: For each image that could not be measured, or not by every metric, the reason.
        skipped: For each metric that could not be had, the reason.
    """

    rows: tuple[ImageScores, ...]
    settings: Mapping[str, str]
    crop: int
    whole: Mapping[str, float] = field(default_factory=dict)
    failures: Mapping[str, str] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)

    @property
    def means(self) -> dict[str, float]:
        """The mean over the images that have a figure, or the figure of the folder, by metric."""
        scores = FolderScores(self.rows, self.whole, self.failures)
        return {name: scores.mean(name) for name in self.settings}

    def table(self) -> Table:
        """For the terminal: a line for each image, then the means, then how they were measured."""
        how = "\n".join(f"{name.upper()}: {text}" for name, text in self.settings.items())
        table = Table(
            caption=f"{how}\n{crop_text(self.settings.values())}".rstrip(), caption_justify="left", show_footer=True
        )
        table.add_column("image", footer=f"mean of {len(self.rows)}")
        places = {name: decimals(mean) for name, mean in self.means.items()}
        for name, mean in self.means.items():
            table.add_column(name.upper(), footer=printed(mean, places[name]), justify="right")
        for row in self.rows:
            table.add_row(row.name, *(printed(row.scores.get(name), places[name]) for name in self.settings))
        return table

    def problems(self) -> list[str]:
        """A line for each metric that was skipped and each image that failed."""
        lines = [f"{name.upper()} was skipped: {reason}" for name, reason in self.skipped.items()]
        return lines + [f"{name}: {reason}" for name, reason in self.failures.items()]

    def to_json(self) -> str:
        """``means``, ``settings``, ``crop``, ``images`` (``name`` and the metrics), ``failures`` and ``skipped``.

        An infinite PSNR (equal images) is the string ``"inf"``, since JSON has no such number.
        """
        content = {
            "means": json_numbers(self.means),
            "settings": dict(self.settings),
            "crop": self.crop,
            "images": [{"name": row.name, **json_numbers(row.scores)} for row in self.rows],
            "failures": dict(self.failures),
            "skipped": dict(self.skipped),
        }
        return json.dumps(content, indent=2)


def evaluate_folders(
    pred: str | PathLike[str],
    hr: str | PathLike[str],
    *,
    metrics: Sequence[MetricChoice | ChosenMetric],
    channel: Channel = "y",
    crop: int = 0,
    weights: Path | None = None,
    device: str | torch.device = "cpu",
    batch: int = 1,
    scores: Path | None = None,
    runner: Runner | None = None,
    registry: Registry | None = None,
    progress: Callable[[int, int], object] | None = None,
    on_failure: Callable[[Path, str], object] | None = None,
) -> Report:
    """Measure restored photos against their originals.

    Which belong together: see ``xpsr_sdk.evaluation.matching.match``. A photo that cannot be read, and a metric whose
    weights are missing, are listed in the report; the rest is measured.

    Args:
        pred: Folder of restored photos, with subfolders; or one file.
        hr: Folder of the originals; or one file.
        metrics: Names of metrics or of presets, mappings with ``"name"`` and options, or metrics that are built.
        channel: What PSNR and SSIM measure: luma (``"y"``) or all three channels (``"rgb"``).
        crop: Pixels left out at each side, for every metric that has no option ``crop`` of its own.
        weights: Folder with the weights of metrics; ``None`` leaves it to each metric where they come from.
        device: Where to compute.
        batch: How many photos of one size are measured together.
        scores: File with figures that were computed before, to which new ones are added.
        runner: Where the photos are measured. None: in this process.
        registry: Where metrics are looked up; None: the built-in and the installed plug-ins.
        progress: Called as ``progress(done, total)`` after each pair.
        on_failure: Called as ``on_failure(photo, reason)`` after each photo that failed.

    Raises:
        ConfigError: An option or the device is wrong, the crop is negative, the folders do not hold the same images, or
            the weights of all metrics are missing.
        PluginError: There is no such metric, or its plug-in is broken.
    """
    pairs = match(place(pred), place(hr))
    work, skipped = scoring_work(
        metrics, references=True, channel=channel, crop=crop, weights=weights, device=device, batch=batch,
        scores=scores, registry=registry,
    )  # fmt: skip
    found = score(work, {"": pairs}, runner or LocalRunner(), progress, on_failure)[""]
    settings = {chosen.name: chosen.details for chosen in work.metrics}
    return Report(found.rows, settings, crop, found.whole, found.failures, skipped)


def printed(score: float | None, places: int, signed: bool = False) -> str:
    """A figure with so many decimals; a dash if there is none."""
    if score is None or math.isnan(score):
        return "-"
    text = f"{score:{'+' if signed else ''}.{places}f}"
    return text.lstrip("+-") if float(text) == 0 else text


def decimals(score: float) -> int:
    """How many decimals papers print of a metric with such a mean: two of PSNR or MUSIQ, four of SSIM or LPIPS."""
    return 2 if math.isfinite(score) and abs(score) >= 10 else 4


def json_numbers(scores: Mapping[str, float]) -> dict[str, float | str]:
    """Figures as JSON can hold them: those that are not finite as strings."""
    return {name: score if math.isfinite(score) else str(score) for name, score in scores.items()}


def crop_text(details: Iterable[str]) -> str:
    """That nothing was left out, if no metric says otherwise."""
    return "" if any(text.endswith(LEFT_OUT) for text in details) else "Whole images, nothing cropped."
