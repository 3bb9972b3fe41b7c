"""Names of metrics: what presets stand for, and the axes of the plot of perception and distortion. It loads nothing."""

from __future__ import annotations

from collections.abc import Collection, Sequence

PAPER = ("psnr", "ssim", "lpips", "dists", "fid", "niqe", "maniqa-pipal", "musiq", "clipiqa")
PRESETS: dict[str, tuple[str, ...]] = {
    "quick": ("psnr", "ssim", "niqe"),
    "paper-xpsr": PAPER,
    "paper-seesr": PAPER,
    "paper-osediff": PAPER,
}
"""Metrics that are chosen together by one name; the guide to evaluation says where each list is known from."""
FIDELITY = ("psnr", "ssim")
PERCEPTUAL = ("lpips", "dists", "maniqa-pipal", "musiq", "clipiqa", "niqe")
"""The metrics of the axes of the plot, the first ones that were measured."""


def metric_names(choices: Sequence[str]) -> list[str]:
    """Names of metrics and presets as names of metrics."""
    return [name for choice in choices for name in PRESETS.get(choice, (choice,))]


def axes_of_plot(names: Collection[str]) -> tuple[str, str] | None:
    """A metric of fidelity and a perceptual one, if both are among the names."""
    fidelity, perceptual = ([name for name in axis if name in names] for axis in (FIDELITY, PERCEPTUAL))
    return (fidelity[0], perceptual[0]) if fidelity and perceptual else None
