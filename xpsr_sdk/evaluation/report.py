"""Measure a folder of restored photos against their originals."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np
import torch
from rich.table import Table

from xpsr_sdk import errors
from xpsr_sdk.builtin.pixel_metrics import Channel, ChannelOptions, Psnr, Ssim
from xpsr_sdk.data.images import read_image
from xpsr_sdk.evaluation import metrics as pixelwise
from xpsr_sdk.evaluation.matching import Pair, match
from xpsr_sdk.evaluation.metrics import Image
from xpsr_sdk.evaluation.perceptual import Perceptual
from xpsr_sdk.hardware.devices import find_device

METRICS = {"psnr": 2, "ssim": 4, "lpips": 4, "dists": 4}
"""The metrics, with the decimals that papers print. For similar images, PSNR and SSIM are high, LPIPS and DISTS low."""
LOWER_IS_BETTER = frozenset({"lpips", "dists"})

Measure = Callable[[Image, Image], float]


@dataclass(frozen=True)
class ImageScores:
    """The figures of one image: by metric, as in ``METRICS``."""

    name: str
    scores: Mapping[str, float]


@dataclass(frozen=True)
class Report:
    """The figures of a folder, and how they were measured.

    Attributes:
        rows: One an image, sorted by name.
        settings: For each metric, what exactly was computed and by which implementation.
        crop: Pixels left out at each side, for every metric.
    """

    rows: tuple[ImageScores, ...]
    settings: Mapping[str, str]
    crop: int

    @property
    def means(self) -> dict[str, float]:
        """The mean over the images, by metric."""
        return {name: sum(row.scores[name] for row in self.rows) / len(self.rows) for name in self.settings}

    def table(self) -> Table:
        """For the terminal: a line an image, then the means, then how they were measured."""
        how = "\n".join(f"{name.upper()}: {text}" for name, text in self.settings.items())
        table = Table(caption=f"{how}\n{_crop_text(self.crop)}", caption_justify="left", show_footer=True)
        table.add_column("image", footer=f"mean of {len(self.rows)}")
        for name, mean in self.means.items():
            table.add_column(name.upper(), footer=_printed(name, mean), justify="right")
        for row in self.rows:
            table.add_row(row.name, *(_printed(name, row.scores[name]) for name in self.settings))
        return table

    def to_json(self) -> str:
        """``means``, ``settings``, ``crop`` and ``images`` (``name`` and one key a metric).

        An infinite PSNR (equal images) is the string ``"inf"``, since JSON has no such number.
        """
        content = {
            "means": _finite(self.means),
            "settings": dict(self.settings),
            "crop": self.crop,
            "images": [{"name": row.name, **_finite(row.scores)} for row in self.rows],
        }
        return json.dumps(content, indent=2)


def evaluate_folders(
    pred: str | PathLike[str],
    hr: str | PathLike[str],
    *,
    metrics: Sequence[str],
    channel: Channel = "y",
    crop: int = 0,
    weights: Path | None = None,
    device: str | torch.device = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Measure restored photos against their originals.

    Which belong together: see ``xpsr_sdk.evaluation.matching.match``.

    Args:
        pred: Folder of restored photos, with subfolders; or one file.
        hr: Folder of the originals; or one file.
        metrics: Any of ``"psnr"``, ``"ssim"``, ``"lpips"``, ``"dists"``.
        channel: What PSNR and SSIM measure: luma (``"y"``) or all three channels (``"rgb"``).
        crop: Pixels left out at each side, for every metric.
        weights: Folder with the weights of LPIPS and DISTS, see ``xpsr_sdk.evaluation.perceptual``;
            ``None`` lets pyiqa download them.
        device: Where LPIPS and DISTS are computed.
        progress: Called as ``progress(done, total)`` after each pair.

    Raises:
        ConfigError: A metric, channel or device is unknown, the crop is negative, the folders do not hold the
            same images, or pyiqa is needed and not installed.
        CheckpointError: A weight file is missing or unusable.
        ImageError: A pair cannot be read, differs in size, or is too small for a metric.
    """
    pairs = match(Path(pred), Path(hr))
    measures, settings = measures_of(metrics, channel, crop, weights, find_device(device))
    rows = []
    for done, pair in enumerate(pairs, start=1):
        rows.append(_measure(pair, measures, crop))
        if progress:
            progress(done, len(pairs))
    return Report(tuple(rows), settings, crop)


def measures_of(
    metrics: Sequence[str], channel: Channel, crop: int, weights: Path | None, device: torch.device
) -> tuple[dict[str, Measure], dict[str, str]]:
    """What to call for each metric, and its description; see ``evaluate_folders`` for arguments and errors."""
    if channel not in ("y", "rgb"):
        raise errors.ConfigError(f"There is no channel {channel!r}: PSNR and SSIM measure 'y' or 'rgb'.")
    if crop < 0:
        raise errors.ConfigError(f"The crop is {crop}: it must be 0 or more pixels.")
    if not metrics:
        raise errors.ConfigError(f"No metric is given. Known: {', '.join(METRICS)}.")
    measures: dict[str, Measure] = {}
    settings: dict[str, str] = {}
    for name in metrics:
        if name not in METRICS:
            raise errors.ConfigError(f"There is no metric {name!r}. {errors.did_you_mean(name, METRICS)}")
        if name in ("lpips", "dists"):
            perceptual = Perceptual(name, weights=weights, device=device)
            measures[name], settings[name] = perceptual, perceptual.description
        else:
            measures[name], settings[name] = _pixelwise(name, channel)
    return measures, settings


def _pixelwise(name: str, channel: Channel) -> tuple[Measure, str]:
    options = ChannelOptions(channel=channel)
    if name == "psnr":
        return lambda a, b: pixelwise.psnr(a, b, channel=channel), Psnr(options).details
    return lambda a, b: pixelwise.ssim(a, b, channel=channel), Ssim(options).details


def _measure(pair: Pair, measures: Mapping[str, Measure], crop: int) -> ImageScores:
    pred, hr = (np.asarray(read_image(path).image) for path in (pair.pred, pair.hr))
    if pred.shape != hr.shape:
        raise errors.ImageError(
            f"{pair.pred} has {pred.shape[1]} x {pred.shape[0]} pixels, but {pair.hr} has "
            f"{hr.shape[1]} x {hr.shape[0]}."
        )
    try:
        pred, hr = pixelwise.cropped(pred, crop), pixelwise.cropped(hr, crop)
        return ImageScores(pair.name, {name: measure(pred, hr) for name, measure in measures.items()})
    except errors.ImageError as error:
        raise errors.ImageError(f"{pair.pred}: {error}") from error


def _printed(name: str, score: float) -> str:
    return f"{score:.{METRICS[name]}f}"


def _finite(scores: Mapping[str, float]) -> dict[str, float | str]:
    return {name: score if math.isfinite(score) else str(score) for name, score in scores.items()}


def _crop_text(crop: int) -> str:
    return f"{crop} pixels left out at each side." if crop else "Whole images, nothing cropped."
