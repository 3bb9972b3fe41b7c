"""A metric that was chosen: it is asked for the figures of photos, and what it answers is checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from xpsr_sdk.contracts import FolderMetric, Metric
from xpsr_sdk.errors import (
    ImageError,
    XPSRError,
    one_line,
    print_traceback,
    short,
)
from xpsr_sdk.plugin_system.answers import blamed_on, wrong

LEFT_OUT = "pixels left out at each side"


@dataclass(frozen=True)
class ChosenMetric:
    """A metric, and what it is called in reports.

    Attributes:
        name: Its name, with the options that were given.
        metric: The metric itself.
        component: The plug-in's part with its version, for messages and for the keys of stored figures.
        own_crop: Pixels that it leaves out at each side; None: as many as the others.
        crop: Pixels that it leaves out at each side.
    """

    name: str
    metric: Metric
    component: str
    own_crop: int | None = None
    crop: int = 0

    @property
    def details(self) -> str:
        """What exactly is computed."""
        return f"{self.metric.details}; {self.crop} {LEFT_OUT}" if self.crop else self.metric.details

    @property
    def license(self) -> str:
        """What may be done with it, if the metric says so."""
        return str(getattr(self.metric, "license", ""))

    @property
    def of_folders(self) -> bool:
        """Whether it has one figure for a whole folder."""
        return isinstance(self.metric, FolderMetric)

    @property
    def storable(self) -> bool:
        """Whether ``details`` tells exactly what is computed, so that figures can be stored."""
        return bool(getattr(self.metric, "storable", True))

    def check_size(self, width: int, height: int) -> None:
        """Raise ImageError unless photos of that size can be measured."""
        side, left = self.metric.min_side, (width - 2 * self.crop, height - 2 * self.crop)
        if min(left) <= 0:
            raise ImageError(f"A crop of {self.crop} leaves nothing of an image of {width} x {height} pixels.")
        if min(left) < side:
            raise ImageError(
                f"{self.name.upper()} needs at least {side} x {side} pixels, and this image is {left[0]} x {left[1]}."
            )

    def figures(self, images: Tensor, references: Tensor | None) -> list[float]:
        """One figure for each photo; see ``xpsr_sdk.Metric.measure`` for the arguments.

        Raises:
            ImageError: The metric fails, or has no figure for a photo.
            PluginError: It gives anything but one figure for each photo.
        """
        result = self._measured(images, references if self.metric.needs_reference else None)
        if result.shape != (len(images),):
            raise wrong("metric", self.metric, f"gave figures of shape {tuple(result.shape)}, not ({len(images)},)")
        if bool(result.isnan().any()):
            raise ImageError(f"{self.name.upper()} has no figure for this image.")
        return result.tolist()

    def features(self, images: Tensor) -> Tensor:
        """The features of each photo, B D, for a metric of whole folders.

        Raises:
            ImageError: The metric fails, or a feature is not finite.
            PluginError: It gives anything but features for each photo.
        """
        result = self._measured(images, None)
        if result.ndim != 2 or len(result) != len(images):
            shape = f"({len(images)}, D)"
            raise wrong("metric", self.metric, f"gave features of shape {tuple(result.shape)}, not {shape}")
        if not bool(result.isfinite().all()):
            raise ImageError(f"{self.name.upper()} has no finite features for this image.")
        return result

    def compare(self, features: Tensor, references: Tensor | None) -> float:
        """The figure of a whole folder.

        Raises:
            PluginError: The metric fails, or gives no number.
        """
        metric = cast(FolderMetric, self.metric)
        with blamed_on("metric", metric):
            figure = metric.compare(features, references if metric.needs_reference else None)
        if not isinstance(figure, int | float | Tensor) or (isinstance(figure, Tensor) and figure.numel() != 1):
            raise wrong("metric", metric, f"gave {short(figure)} as the figure of a folder, not a number")
        return float(figure)

    def _measured(self, images: Tensor, references: Tensor | None) -> Tensor:
        inside = slice(self.crop, -self.crop or None)
        images = images[..., inside, inside]
        references = None if references is None else references[..., inside, inside]
        try:
            with torch.no_grad(), blamed_on("metric", self.metric):
                result = self.metric.measure(images, references)
        except Exception as error:  # whatever a metric makes of a photo that it cannot measure, or too little memory
            print_traceback()
            is_told = isinstance(error, XPSRError)
            raise ImageError(str(error) if is_told else f"{self.name.upper()} failed: {one_line(error)}") from error
        if not isinstance(result, Tensor):
            raise wrong("metric", self.metric, f"gave a {type(result).__name__}, not a tensor")
        return result.detach().cpu().double()
