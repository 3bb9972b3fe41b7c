"""What is decided before photos are measured: the metrics, the device, and which figures are known already."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from xpsr_sdk.builtin.pixel_metrics import Channel
from xpsr_sdk.errors import ConfigError
from xpsr_sdk.evaluation.choosing import MetricChoice, choose_metrics
from xpsr_sdk.evaluation.chosen import ChosenMetric
from xpsr_sdk.evaluation.measuring import ScoringWork
from xpsr_sdk.evaluation.store import ScoreStore
from xpsr_sdk.hardware.devices import find_device
from xpsr_sdk.plugin_system.registry import Registry, default_registry


def scoring_work(
    metrics: Sequence[MetricChoice | ChosenMetric],
    *,
    references: bool,
    channel: Channel,
    crop: int,
    weights: Path | None,
    device: str | torch.device,
    batch: int,
    scores: Path | None,
    registry: Registry | None,
) -> tuple[ScoringWork, dict[str, str]]:
    """Choose the metrics, and say how photos are measured with them.

    Args:
        metrics: As ``compare_folders`` takes them, like all that follows.
        references: Whether there are references. Without them, metrics that need some are left out.
        channel: What PSNR and SSIM measure.
        crop: Pixels left out at each side by metrics that have no crop of their own.
        weights: Folder with the weights of metrics.
        device: Where to compute.
        batch: How many photos of one size are measured together.
        scores: File of figures.
        registry: Where metrics are looked up.

    Returns:
        What measures photos, and the reason for each metric that is left out.

    Raises:
        ConfigError: An option or the device is wrong, the crop is negative, or no metric is left.
        PluginError: There is no such metric, or its plug-in is broken.
    """
    known = registry or default_registry()
    chosen, skipped = choose_metrics(metrics, known, crop=crop, channel=channel, weights=weights)
    if not references:
        skipped |= {c.name: "It needs references (--reference)." for c in chosen if c.metric.needs_reference}
        chosen = [c for c in chosen if not c.metric.needs_reference]
        if not chosen:
            raise ConfigError("Every chosen metric needs references: name their folder (--reference).")
    return ScoringWork(chosen, find_device(device), batch, ScoreStore(scores)), skipped
