"""Plots of comparisons, by matplotlib (the extra ``plot``)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib import import_module
from io import BytesIO
from typing import Any, get_args

from xpsr_sdk.config import Speed
from xpsr_sdk.evaluation.comparison import Comparison, heading
from xpsr_sdk.evaluation.presets import axes_of_plot

SPEEDS = get_args(Speed)
SWEEP = re.compile(rf"(.*?)[-_ =]?(\d+(?:\.\d+)?|{'|'.join(SPEEDS)})")
"""Methods are a sweep if their names differ by the number or speed at their end alone, as fidelity-0.2 and -0.8."""


def pyplot() -> Any:
    """matplotlib's pyplot, which draws to files; None where it is not installed."""
    try:
        import_module("matplotlib").use("Agg")
        return import_module("matplotlib.pyplot")
    except ImportError:
        return None


def trade_off(comparison: Comparison, file_type: str = "svg") -> bytes | None:
    """Perception against distortion: a point for each method, a line for each sweep.

    Blau and Michaeli, "The Perception-Distortion Tradeoff", CVPR 2018.

    Args:
        comparison: The figures.
        file_type: Any type that matplotlib writes, for instance ``svg`` or ``png``.

    Returns:
        The file; None where matplotlib is not installed, or no metric for one of the axes was measured.
    """
    measured = {chosen.name: chosen for chosen in comparison.metrics}
    drawing, names = pyplot(), axes_of_plot(measured)
    if drawing is None or names is None:
        return None
    axes = [measured[name] for name in names]
    with drawing.rc_context({"svg.hashsalt": "xpsr"}):
        figure, plot = drawing.subplots(figsize=(7, 5))
        points = {
            method: tuple(comparison.mean(method, chosen).mean for chosen in axes) for method in comparison.methods
        }
        for line in sweeps(list(points)):
            plot.plot(*zip(*(points[method] for method in line), strict=True), color="0.7", zorder=1)
        for x, y in points.values():
            plot.scatter(x, y, zorder=2)
        plot.margins(0.1)
        for chosen, invert in zip(axes, (plot.invert_xaxis, plot.invert_yaxis), strict=True):
            if chosen.metric.lower_is_better:
                invert()
        left, right = plot.get_xlim()
        for method, point in points.items():
            is_right = (point[0] - left) / (right - left) > 0.5
            side, shift = ("right", -5) if is_right else ("left", 5)  # so that no name leaves the plot
            plot.annotate(_plain(method), point, xytext=(shift, 5), textcoords="offset points", ha=side)
        plot.set(xlabel=f"{heading(axes[0])} (fidelity)", ylabel=f"{heading(axes[1])} (perception)")
        plot.set_title("Better is up and to the right")
        figure.tight_layout()
        file = BytesIO()
        figure.savefig(file, format=file_type, dpi=150, metadata={"Date": None} if file_type == "svg" else None)
        drawing.close(figure)
    return file.getvalue()


def sweeps(methods: Sequence[str]) -> list[list[str]]:
    """Methods that belong to one sweep, in the order of their numbers or speeds."""
    groups: dict[str, list[tuple[float, str]]] = {}
    for method in methods:
        if found := SWEEP.fullmatch(method):
            place = SPEEDS.index(found[2]) if found[2] in SPEEDS else float(found[2])
            groups.setdefault(found[1], []).append((place, method))
    return [[method for _, method in sorted(group)] for group in groups.values() if len(group) > 1]


def _plain(name: str) -> str:
    """A name as matplotlib prints it: without line breaks, and with dollar signs that begin no formula."""
    return "".join(c if c.isprintable() else " " for c in name).replace("$", r"\$")
