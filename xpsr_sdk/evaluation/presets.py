"""Names of metrics, and nothing else: what presets stand for, and the axes of the plot of perception and distortion."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

OSEDIFF = ("psnr", "ssim-pyiqa", "lpips", "dists", "fid", "niqe", "maniqa-pipal", "musiq", "clipiqa")
CROPPED = ("psnr", "ssim-pyiqa", "niqe")
"""The metrics of pyiqa that can leave out a border, which SeeSR does."""
PRESETS: dict[str, tuple[str | Mapping[str, Any], ...]] = {
    "quick": ("psnr", "ssim", "niqe"),
    "paper-xpsr": OSEDIFF,
    "paper-seesr": tuple({"name": name, "crop": 4} if name in CROPPED else name for name in OSEDIFF),
    "paper-osediff": OSEDIFF,
}
"""Metrics that are chosen together by one name; the guide to evaluation says where each list is known from."""
FIDELITY = ("psnr", "ssim", "ssim-pyiqa")
PERCEPTUAL = ("lpips", "dists", "maniqa-pipal", "musiq", "clipiqa", "niqe")
"""The metrics of the axes of the plot, the first ones that were measured."""


def metric_names(choices: Sequence[str]) -> list[str]:
    """Names of metrics and presets as names of metrics."""
    members = [member for choice in choices for member in PRESETS.get(choice, (choice,))]
    return [member if isinstance(member, str) else str(member["name"]) for member in members]


def axes_of_plot(names: Collection[str]) -> tuple[str, str] | None:
    """A metric of fidelity and a perceptual one, if both are among the names, which may tell options in parentheses."""
    bare = {name.partition(" (")[0]: name for name in names}
    fidelity, perceptual = ([bare[name] for name in axis if name in bare] for axis in (FIDELITY, PERCEPTUAL))
    return (fidelity[0], perceptual[0]) if fidelity and perceptual else None
