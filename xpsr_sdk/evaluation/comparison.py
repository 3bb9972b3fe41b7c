"""Several methods on the same photos."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from os import PathLike
from pathlib import Path

import torch
from rich.table import Table

from xpsr_sdk.builtin.pixel_metrics import Channel
from xpsr_sdk.errors import ConfigError
from xpsr_sdk.evaluation.choosing import MetricChoice
from xpsr_sdk.evaluation.chosen import ChosenMetric
from xpsr_sdk.evaluation.intervals import Difference, Interval, mean_interval, paired_difference
from xpsr_sdk.evaluation.matching import Matched, Pair, match_methods
from xpsr_sdk.evaluation.report import crop_text, decimals, json_numbers, printed
from xpsr_sdk.evaluation.scores import FolderScores
from xpsr_sdk.evaluation.scoring import score
from xpsr_sdk.evaluation.setup import scoring_work
from xpsr_sdk.evaluation.upscale_logs import LoggedPhoto, read_logs
from xpsr_sdk.files.remote import place
from xpsr_sdk.plugin_system.registry import Registry
from xpsr_sdk.runners.local import LocalRunner
from xpsr_sdk.runners.work import Runner


@dataclass(frozen=True)
class Comparison:
    """The figures of several methods, the first of which the others are compared with.

    Attributes:
        methods: The figures of each method, by its name.
        metrics: The metrics.
        matched: The files of each method, the references and the inputs, by photo; and what is missing.
        crop: Pixels left out at each side, for every metric.
        skipped: For each metric that could not be had, the reason.
        logged: What logs of ``xpsr upscale`` say of the photos, by file.
    """

    methods: Mapping[str, FolderScores]
    metrics: Sequence[ChosenMetric]
    matched: Matched
    crop: int
    skipped: Mapping[str, str]
    logged: Mapping[Path, LoggedPhoto] = field(default_factory=dict)

    @property
    def baseline(self) -> str:
        """The method that the others are compared with."""
        return next(iter(self.methods))

    def mean(self, method: str, chosen: ChosenMetric) -> Interval:
        """The mean of a method over its photos, with its interval; the figure of a whole folder has none."""
        scores = self.methods[method]
        if chosen.of_folders:
            figure = scores.mean(chosen.name)
            return Interval(figure, figure, figure)
        return mean_interval(list(scores.values(chosen.name).values()))

    def places(self, chosen: ChosenMetric) -> int:
        """How many decimals of a metric are printed, for all methods."""
        means = [abs(scores.mean(chosen.name)) for scores in self.methods.values()]
        return decimals(max(filter(math.isfinite, means), default=0.0))

    def difference(self, method: str, chosen: ChosenMetric) -> Difference:
        """A method against the baseline on the photos that both have."""
        own, other = (self.methods[name].values(chosen.name) for name in (method, self.baseline))
        return paired_difference(own, other, lower_is_better=chosen.metric.lower_is_better)

    def same_photos(self, chosen: ChosenMetric) -> bool:
        """Whether a metric measured the same photos of all methods, so that the means can be compared."""
        return len({frozenset(scores.photos(chosen.name)) for scores in self.methods.values()}) == 1

    def count_text(self, method: str, chosen: ChosenMetric) -> str:
        """How many photos the mean of a method is of; empty where that is the same for all methods."""
        if self.same_photos(chosen):
            return ""
        count = len(self.methods[method].photos(chosen.name))
        return f"({count} photo{'' if count == 1 else 's'})"

    def best(self, chosen: ChosenMetric) -> str | None:
        """The method with the best mean.

        None where there is a single method, the metric measured different photos of the methods, or a mean is not
        finite.
        """
        sign = -1 if chosen.metric.lower_is_better else 1
        means = {method: sign * scores.mean(chosen.name) for method, scores in self.methods.items()}
        if len(means) < 2 or not self.same_photos(chosen) or not all(map(math.isfinite, means.values())):
            return None
        return max(means, key=lambda method: means[method])

    def table(self) -> Table:
        """For the terminal: a line for each method."""
        how = "\n".join(f"{chosen.name.upper()}: {chosen.details}" for chosen in self.metrics)
        caption = f"Means with 95 % bootstrap intervals.\n{how}\n{crop_text(c.details for c in self.metrics)}".rstrip()
        table = Table(caption=caption, caption_justify="left")
        table.add_column("method")
        table.add_column("photos", justify="right")
        for chosen in self.metrics:
            table.add_column(heading(chosen), justify="right")
        for method, scores in self.methods.items():
            cells = [
                f"{self._interval_text(method, chosen)} {self.count_text(method, chosen)}".rstrip()
                for chosen in self.metrics
            ]
            table.add_row(method, str(len(scores.rows)), *cells)
        return table

    def _interval_text(self, method: str, chosen: ChosenMetric) -> str:
        """``mean [low, high]``, or the mean alone if there is no interval."""
        interval, places = self.mean(method, chosen), self.places(chosen)
        if not interval.low < interval.high:
            return printed(interval.mean, places)
        low, high = printed(interval.low, places), printed(interval.high, places)
        return f"{printed(interval.mean, places)} [{low}, {high}]"

    def problems(self) -> list[str]:
        """A line for everything that was not measured."""
        lines = [f"{name.upper()} was skipped: {reason}" for name, reason in self.skipped.items()]
        lines += [f"{method} lacks {name}." for method, names in self.matched.missing.items() for name in names]
        for method, scores in self.methods.items():
            lines += [f"{method}, {name}: {reason}" for name, reason in scores.failures.items()]
        return lines

    def to_json(self) -> str:
        """``methods``, ``settings``, ``crop``, ``missing``, ``skipped``.

        Of each method: means with intervals, of how many photos they are, paired differences, and all images.
        Figures that are not finite are strings, since JSON has no such numbers.
        """
        content = {
            "baseline": self.baseline,
            "methods": {method: self._record(method) for method in self.methods},
            "settings": {chosen.name: chosen.details for chosen in self.metrics},
            "crop": self.crop,
            "missing": {method: list(names) for method, names in self.matched.missing.items()},
            "skipped": dict(self.skipped),
        }
        return json.dumps(content, indent=2)

    def _record(self, method: str) -> dict[str, object]:
        scores = self.methods[method]
        means = {chosen.name: json_numbers(asdict(self.mean(method, chosen))) for chosen in self.metrics}
        photos = {chosen.name: len(scores.photos(chosen.name)) for chosen in self.metrics}
        record: dict[str, object] = {"means": means, "photos": photos, "failures": dict(scores.failures)}
        if method != self.baseline:
            differences = {c.name: self.difference(method, c) for c in self.metrics if not c.of_folders}
            record["differences"] = {
                name: {**json_numbers(asdict(d.interval)), "wins": d.wins, "losses": d.losses, "ties": d.ties}
                for name, d in differences.items()
            }
        record["images"] = [{"name": row.name, **json_numbers(row.scores)} for row in scores.rows]
        return record


def compare_folders(
    methods: Sequence[str | PathLike[str]] | Mapping[str, Path],
    *,
    reference: str | PathLike[str] | None = None,
    input: str | PathLike[str] | None = None,
    metrics: Sequence[MetricChoice | ChosenMetric],
    channel: Channel = "y",
    crop: int = 0,
    weights: Path | None = None,
    device: str | torch.device = "cpu",
    batch: int = 1,
    scores: Path | None = None,
    logs: Sequence[Path] = (),
    runner: Runner | None = None,
    registry: Registry | None = None,
    progress: Callable[[int, int], object] | None = None,
    on_failure: Callable[[Path, str], object] | None = None,
) -> Comparison:
    """Measure several methods on the same photos.

    Args:
        methods: A folder of restored photos for each method, called by the folder's name, or a mapping with names; the
            others are compared with the first.
        reference: Folder of the originals; None: metrics that need them are left out.
        input: Folder of the degraded photos, which a report shows.
        metrics: Names of metrics or of presets, mappings with ``"name"`` and options, or metrics that are built.
        channel: What PSNR and SSIM measure: luma (``"y"``) or all three channels (``"rgb"``).
        crop: Pixels left out at each side, for every metric that has no option ``crop`` of its own.
        weights: Folder with the weights of metrics; ``None`` leaves it to each metric where they come from.
        device: Where to compute.
        batch: How many photos of one size are measured together.
        scores: File with figures that were computed before, to which new ones are added.
        logs: Logs of ``xpsr upscale --log``, which tell the time and the prompts of photos.
        runner: Where the photos are measured. None: in this process.
        registry: Where metrics are looked up; None: the built-in and the installed plug-ins.
        progress: Called as ``progress(done, total)`` after each photo.
        on_failure: Called as ``on_failure(photo, reason)`` after each photo that failed.

    Raises:
        ConfigError: An option or the device is wrong, two methods have one name, a folder holds no image, or no metric
            is left.
        PluginError: There is no such metric, or its plug-in is broken.
    """
    originals, degraded = (None if folder is None else place(folder) for folder in (reference, input))
    folders = methods if isinstance(methods, Mapping) else _named([place(folder) for folder in methods])
    matched = match_methods(folders, originals, degraded)
    logged = read_logs(logs)
    work, skipped = scoring_work(
        metrics, references=reference is not None, channel=channel, crop=crop, weights=weights, device=device,
        batch=batch, scores=scores, registry=registry,
    )  # fmt: skip
    pairs = {
        method: [Pair(name, path, matched.references.get(name)) for name, path in files.items()]
        for method, files in matched.methods.items()
    }
    found = score(work, pairs, runner or LocalRunner(), progress, on_failure)
    return Comparison(found, work.metrics, matched, crop, skipped, logged)


def heading(chosen: ChosenMetric) -> str:
    """The name of a metric, with an arrow to where better is."""
    return f"{chosen.name.upper()} {'↓' if chosen.metric.lower_is_better else '↑'}"


def _named(folders: Sequence[Path]) -> dict[str, Path]:
    if not folders:
        raise ConfigError("No method is given: name a folder of restored photos for each.")
    named: dict[str, Path] = {}
    for folder in folders:
        name = folder.resolve().name
        if name in named:
            raise ConfigError(f"{named[name]} and {folder} would both be called {name}: rename one of the folders.")
        named[name] = folder
    return named
